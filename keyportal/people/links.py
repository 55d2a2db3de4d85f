"""The link of an invitation: signed, for one row, and for nothing else.

It names the row by id and nonce. It also says whether it was mailed: only then does whoever opens
it own the address. Attack: an admin copies the link of somebody else's address and counts as its
owner.
"""

from typing import NamedTuple
from urllib.parse import urljoin

from django.conf import settings
from django.core import signing
from django.urls import reverse

from keyportal.people.models import Invitation

_SALT = "keyportal.people.invitation"


class DeadLink(Exception):
    """Nobody can join with the link. The message says what to do."""

    title = "This invitation no longer works"


class ForgedLink(DeadLink):
    title = "This link is not complete"

    def __init__(self) -> None:
        super().__init__(
            "It may have been cut when it was copied. Open the link in your mail again, or copy "
            "all of it."
        )


class EndedInvitation(DeadLink):
    title = "This invitation is used or revoked"

    def __init__(self) -> None:
        super().__init__(
            "If you have accepted it already, sign in. Otherwise ask whoever invited you for a new "
            "one."
        )


class ExpiredInvitation(DeadLink):
    title = "This invitation has expired"

    def __init__(self) -> None:
        super().__init__("Ask whoever invited you to send it again.")


class Link(NamedTuple):
    invitation_id: int
    nonce: str
    is_mailed: bool


def token_for(invitation: Invitation, *, is_mailed: bool) -> str:
    link = Link(invitation.pk, invitation.nonce, is_mailed)
    return signing.dumps(link, salt=_SALT)


def url_for(invitation: Invitation, *, is_mailed: bool, origin: str = "") -> str:
    """`origin` is for a page of ours, where no address is set; mails have the one that is."""
    base = settings.PUBLIC_URL or origin or f"http://127.0.0.1:{settings.PORT}"
    token = token_for(invitation, is_mailed=is_mailed)
    return urljoin(base, reverse("invitation", args=[token]))


def read(token: str) -> Link:
    """Raises `ForgedLink`."""
    try:
        return Link(*signing.loads(token, salt=_SALT))
    except signing.BadSignature:
        raise ForgedLink from None


def find(link: Link) -> Invitation:
    """The invitation that the link is for, with its team. Raises `DeadLink`."""
    # In one statement: an invitation that is used between two would be called expired.
    rows = Invitation.objects.with_expiry().select_related("team", "invited_by")
    row = rows.filter(pk=link.invitation_id, nonce=link.nonce).first()
    if row is None or not row.team.is_active or not row.is_backed():
        raise EndedInvitation
    if row.has_expired:
        raise ExpiredInvitation
    return row

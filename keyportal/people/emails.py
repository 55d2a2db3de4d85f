"""The mail with the link of an invitation."""

from urllib.parse import urlsplit

from django.conf import settings

from keyportal.notifications.emails import build_messages, send
from keyportal.people.links import url_for
from keyportal.people.models import Invitation


def is_mail_set_up() -> bool:
    """Whether invitations are mailed. Otherwise their links are shown, to copy.

    Attack: a link in a mail must not follow the Host header of whoever invites, so without a public
    address there is none.
    """
    return "smtp" in settings.OUTBOX_EMAIL_BACKEND and bool(settings.PUBLIC_URL)


def send_invitation(invitation: Invitation) -> None:
    """Into the outbox, in the open transaction.

    Attack: whoever invites puts line breaks into the note, the team's name or their own, to forge
    headers or text. `build_messages` makes each one line.
    """
    inviter = invitation.invited_by
    context = {
        "team": invitation.team.name,
        "role": invitation.get_role_display(),
        "inviter": inviter.get_username() if inviter else "",
        "note": invitation.note,
        "host": urlsplit(settings.PUBLIC_URL).netloc,
        "expires_at": invitation.expires_at,
        "url": url_for(invitation, is_mailed=True),
    }
    send(build_messages("people/email/invitation", [invitation], context))

"""Mail about keys: its recipients and its text.

A mail names a key by name and public id, and never contains a key string. Attack: a member puts
line breaks into the name of a key or a team, to forge text or headers of the mail. So every name is
made one line.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import urljoin

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.db import DEFAULT_DB_ALIAS
from django.db.models import Q
from django.template.loader import render_to_string
from django.urls import reverse

from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, Team, User

_HEADERS = {"Auto-Submitted": "auto-generated"}  # Prevents automatic replies (RFC 3834).
ADMINS = (Role.ADMIN, Role.OWNER)


class Recipient(Protocol):
    """A user, or somebody who is not one yet."""

    @property
    def mail_address(self) -> str: ...


def owner_and_admins(team: Team, owner_id: int | None) -> list[User]:
    """The owner and the team's admins who are members now, are active, and have an address."""
    roles = Q(user=owner_id) | Q(role__in=ADMINS)
    members = (
        Membership.objects.using(team._state.db).for_team(team).filter(roles, user__is_active=True)
    )
    members_with_address = (
        members.exclude(user__email="", user__contact="").select_related("user").order_by("user_id")
    )
    return [membership.user for membership in members_with_address]


def owner_or_admins(team: Team, owner_id: int | None) -> list[User]:
    """Only the owner, or the team's admins if the owner has left or has no address."""
    people = owner_and_admins(team, owner_id)
    return [person for person in people if person.pk == owner_id] or people


def build_messages(
    template: str, people: Iterable[Recipient], context: Mapping[str, object]
) -> list[EmailMessage]:
    """One message for each person, so that recipients don't see each other's addresses.

    `template` is a path such as `notifications/email/expiry`, for the files `expiry_subject.txt`
    and `expiry_message.txt`. Each text in the context, also in lists, is made one line.
    """
    lines = _single_lines(context)
    subject = one_line(
        settings.ACCOUNT_EMAIL_SUBJECT_PREFIX + render_to_string(f"{template}_subject.txt", lines)
    )
    text = keystring.redact(render_to_string(f"{template}_message.txt", lines))
    return [
        EmailMessage(subject, text, to=[person.mail_address], headers=_HEADERS) for person in people
    ]


def _single_lines(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _single_lines(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_single_lines(inner) for inner in value]
    return one_line(value) if isinstance(value, str) else value


def one_line(text: str) -> str:
    """The text without line breaks and other unprintable characters, and with keys redacted."""
    visible = "".join(character if character.isprintable() else " " for character in text)
    return keystring.redact(" ".join(visible.split()))


def key_url(key: ApiKey) -> str:
    """The URL of the key's page; empty if `PUBLIC_URL` is not set."""
    if not settings.PUBLIC_URL:
        return ""
    keys = reverse("keys:list", args=[key.team.slug])
    return urljoin(settings.PUBLIC_URL, f"{keys}{key.public_id}/")


def send(messages: Iterable[EmailMessage], *, using: str | None = None) -> None:
    """Put the messages into the outbox, in the open transaction on this connection, if any."""
    get_connection(using=using or DEFAULT_DB_ALIAS).send_messages([*messages])

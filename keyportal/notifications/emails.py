"""Mail to people about a key of their team: to whom it goes and how it is made.

A letter names a key as the list does, and never holds one. Whoever names a key or a team chooses
a part of the text, so a name is one line in it, and can't begin another header.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.db import DEFAULT_DB_ALIAS
from django.db.models import Q
from django.template.loader import render_to_string
from django.urls import reverse

from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, Team, User

_HEADERS = {"Auto-Submitted": "auto-generated"}  # No machine is to answer (RFC 3834).
ADMINS = (Role.ADMIN, Role.OWNER)


def owner_and_admins(team: Team, owner_id: int | None) -> list[User]:
    """Those of them who are in the team now, are active, and have an address."""
    whom = Q(user=owner_id) | Q(role__in=ADMINS)
    members = (
        Membership.objects.using(team._state.db).for_team(team).filter(whom, user__is_active=True)
    )
    found = members.exclude(user__email="").select_related("user").order_by("user_id")
    return [membership.user for membership in found]


def owner_or_admins(team: Team, owner_id: int | None) -> list[User]:
    """The owner alone; in place of one who has left or has no address, the team's admins."""
    people = owner_and_admins(team, owner_id)
    return [person for person in people if person.pk == owner_id] or people


def build_messages(
    template: str, people: Iterable[User], context: Mapping[str, object]
) -> list[EmailMessage]:
    """One for each of them, so that nobody reads in it who else got one.

    `template` is such as `notifications/email/expiry`, which has a `_subject.txt` and a
    `_message.txt`. Of the
    context, each text is made one line, those of its lists too.
    """
    lines = _single_lines(context)
    subject = one_line(
        settings.ACCOUNT_EMAIL_SUBJECT_PREFIX + render_to_string(f"{template}_subject.txt", lines)
    )
    text = keystring.redact(render_to_string(f"{template}_message.txt", lines))
    return [EmailMessage(subject, text, to=[one.email], headers=_HEADERS) for one in people]


def _single_lines(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _single_lines(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_single_lines(inner) for inner in value]
    return one_line(value) if isinstance(value, str) else value


def one_line(text: str) -> str:
    """Without line breaks and all else that nobody sees, and with no key in it."""
    visible = "".join(character if character.isprintable() else " " for character in text)
    return keystring.redact(" ".join(visible.split()))


def key_url(key: ApiKey) -> str:
    """Its address; empty where nobody has said which address of ours people use."""
    if not settings.PUBLIC_URL:
        return ""
    keys = reverse("keys:list", args=[key.team.slug])
    return f"{settings.PUBLIC_URL}{keys}{key.public_id}/"


def send(messages: Iterable[EmailMessage], *, using: str | None = None) -> None:
    """Put them into the outbox, in the transaction that is open on this connection, if one is."""
    get_connection(using=using or DEFAULT_DB_ALIAS).send_messages([*messages])

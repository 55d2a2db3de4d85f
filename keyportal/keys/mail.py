"""Mail to people about a key of their team: to whom it goes, how it is made, and that it left.

A letter names a key as the list does, and never holds one. Whoever names a key or a team chooses
a part of the text, so a name is one line in it, and can't begin another header.
"""

import logging
from collections.abc import Iterable, Mapping
from smtplib import SMTPDataError, SMTPNotSupportedError, SMTPRecipientsRefused
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.db.models import Q
from django.template.loader import render_to_string
from django.urls import reverse

from keyportal.keys import secret
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, Team, User

logger = logging.getLogger(__name__)
_HEADERS = {"Auto-Submitted": "auto-generated"}  # No machine is to answer (RFC 3834).
ADMINS = (Role.ADMIN, Role.OWNER)
# What a server says of one letter; all else that goes wrong would go wrong with each.
REFUSALS = (SMTPRecipientsRefused, SMTPDataError, SMTPNotSupportedError, ValueError)


class MailServerDown(Exception):
    """Nothing could be sent, and no other letter could have been."""


def owner_and_admins(team: Team, owner_id: int | None) -> list[User]:
    """Those of them who are in the team now, are active, and have an address."""
    whom = Q(user=owner_id) | Q(role__in=ADMINS)
    members = Membership.objects.using(team._state.db).of(team).filter(whom, user__is_active=True)
    found = members.exclude(user__email="").select_related("user").order_by("user_id")
    return [membership.user for membership in found]


def owner_or_admins(team: Team, owner_id: int | None) -> list[User]:
    """The owner alone; in place of one who has left or has no address, the team's admins."""
    people = owner_and_admins(team, owner_id)
    return [person for person in people if person.pk == owner_id] or people


def letters(
    template: str, people: Iterable[User], context: Mapping[str, object]
) -> list[EmailMessage]:
    """One for each of them, so that nobody reads in it who else got one.

    `template` is such as `keys/email/expiry`, of a `_subject.txt` and a `_message.txt`. Of the
    context, each text is made one line, those of its lists too.
    """
    lines = _in_lines(context)
    subject = one_line(
        settings.ACCOUNT_EMAIL_SUBJECT_PREFIX + render_to_string(f"{template}_subject.txt", lines)
    )
    text = secret.redact(render_to_string(f"{template}_message.txt", lines))
    return [EmailMessage(subject, text, to=[one.email], headers=_HEADERS) for one in people]


def _in_lines(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _in_lines(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_in_lines(inner) for inner in value]
    return one_line(value) if isinstance(value, str) else value


def one_line(text: str) -> str:
    """Without line breaks and all else that nobody sees, and with no key in it."""
    visible = "".join(character if character.isprintable() else " " for character in text)
    return secret.redact(" ".join(visible.split()))


def page_of(key: ApiKey) -> str:
    """Its address; empty where nobody has said which address of ours people use."""
    if not settings.PUBLIC_URL:
        return ""
    keys = reverse("keys:list", args=[key.team.slug])
    return f"{settings.PUBLIC_URL}{keys}{key.public_id}/"


def send(letters: Iterable[EmailMessage]) -> int:
    """Hand them to the mail server, one by one, and return how many it took.

    May take minutes: `EMAIL_TIMEOUT` is the time for one word of the server's. Raises
    `MailServerDown` where it took none, and not because of the letters.
    """
    taken = 0
    for letter in letters:
        try:
            letter.send()
            taken += 1
        except REFUSALS as error:
            logger.warning("A mail was refused: %s", _in_words(error))
        except OSError as error:
            if not taken:
                raise MailServerDown(_in_words(error)) from None
            logger.warning("A mail could not be sent: %s", _in_words(error))
            break
    return taken


def _in_words(error: Exception) -> str:
    """Without what the server said: it likes to repeat addresses."""
    code = getattr(error, "smtp_code", None)
    reason = code or ("" if isinstance(error, REFUSALS) else getattr(error, "strerror", None))
    return f"{type(error).__name__} {reason or ''}".rstrip()

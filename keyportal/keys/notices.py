"""Telling those whom it concerns that a key leaked, or may have.

A notice is composed after what it tells of is committed, and sent by the thread for mail, so that
neither a caller nor a worker waits for it. What an anonymous reporter wrote is not passed on, or a
report would be a way to send people links. No notice undoes what it tells of: what goes wrong is
in the log.
"""

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from django.conf import settings
from django.db import DatabaseError
from django.urls import reverse

from keyportal.keys import mail
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team
from keyportal.teams.post import send_later

logger = logging.getLogger(__name__)
P = ParamSpec("P")


def undoing_nothing(tell: Callable[P, None]) -> Callable[P, None]:
    @wraps(tell)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            tell(*args, **kwargs)
        except DatabaseError as error:
            logger.error("Nobody was told of a leak: %s", type(error).__name__)

    return told


@undoing_nothing
def reported(key: ApiKey, reporter: str, url: str, *, is_deleted: bool) -> None:
    """To the owner and the team's admins: the key was reported, and is disabled or deleted."""
    context = {
        "name": key.name,
        "public_id": key.public_id,
        "team": key.team.name,
        "is_deleted": is_deleted,
        "works_again": key.is_disabled_by_report,
        "reporter": reporter,
        "found_at": url,
        "url": _keys_of(key.team),
    }
    people = mail.owner_and_admins(key.team, key.owner_id)
    send_later(mail.letters("keys/email/leaked", people, context))


@undoing_nothing
def suspected(team: Team, owner_id: int | None, context: dict[str, object]) -> None:
    """To the owner, also of a deleted key; to the team's admins where the owner has left.

    `context` has `subject`, `told` and `advice`, a text each.
    """
    people = mail.owner_or_admins(team, owner_id)
    context = {"team": team.name, "url": _keys_of(team), **context}
    send_later(mail.letters("keys/email/suspected", people, context))


def _keys_of(team: Team) -> str:
    """Empty where nobody has said which address of ours people use."""
    path = reverse("keys:list", args=[team.slug])
    return f"{settings.PUBLIC_URL}{path}" if settings.PUBLIC_URL else ""

"""Telling those whom it concerns that a key leaked, or may have.

A notice is put into the outbox, so neither a caller nor a worker waits for a mail server. What an
anonymous reporter wrote is not passed on, or a report would be a way to send people links. A
notice of a leak is written after the key's end is committed, and can't undo it: an error is logged.
"""

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from allauth.core import ratelimit
from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest
from django.urls import reverse

from keyportal.leaks.case import LeakReport, StoppedKey
from keyportal.leaks.reports import ANONYMOUS
from keyportal.notifications import emails
from keyportal.teams.models import Team, User

logger = logging.getLogger(__name__)
P = ParamSpec("P")
MAX_LISTED_KEYS = 50  # In one letter, which may be of a thousand.
ANONYMOUS_OF_MANY = "somebody who holds them"


def log_database_errors(tell: Callable[P, None]) -> Callable[P, None]:
    @wraps(tell)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            tell(*args, **kwargs)
        except DatabaseError as error:
            logger.error("Nobody was told of a leak: %s", type(error).__name__)

    return told


@log_database_errors
def send_leak_notices(case: LeakReport) -> None:
    """To the owner and the team's admins of each key that was ended: one letter a person, of all
    that concern them. The audit lists those too of which there is no letter."""
    teams = {ended.key.team for ended in case.ended}
    may_write = {team.pk for team in teams if not case.is_by_somebody or _may_email(team)}
    concerned: dict[User, list[StoppedKey]] = {}
    people: dict[tuple[int, int], list[User]] = {}
    for ended in case.ended:
        team, owner_id = ended.key.team, ended.key.owner_id
        if team.pk not in may_write:
            continue
        if (team.pk, owner_id) not in people:
            people[team.pk, owner_id] = emails.owner_and_admins(team, owner_id)
        for person in people[team.pk, owner_id]:
            concerned.setdefault(person, []).append(ended)
    for person, theirs in concerned.items():
        context = _context(theirs, case)
        emails.send(emails.build_messages("leaks/email/leaked", [person], context))


def _may_email(team: Team) -> bool:
    """Count one more report by a stranger of which the team gets letters, where the hour has room.

    Attack: who makes keys can report them, one after another, and so have us send mail without end.
    The same limiter as for the reports themselves: it counts in the database, over all workers.
    """
    # Counted by the team, so nothing of a request is read.
    return bool(ratelimit.consume(HttpRequest(), action="leak_mail", key=str(team.pk)))


def _context(ended: list[StoppedKey], case: LeakReport) -> dict[str, object]:
    keys = [_key_context(one) for one in ended]
    fates = sorted({one.fate for one in ended}, reverse=True)
    holders = ANONYMOUS_OF_MANY if len(keys) > 1 else ANONYMOUS
    return {
        **keys[0],
        "keys": keys[:MAX_LISTED_KEYS],
        "count": len(keys),
        "unlisted": len(keys[MAX_LISTED_KEYS:]),
        "reporter": holders if case.is_by_somebody else case.report.reporter,
        "fate": " or ".join(fates),
        "has_disabled": "disabled" in fates,
        "has_management": "deleted" in fates,
        "urls": sorted({str(key["url"]) for key in keys}),
        "is_limited": case.is_by_somebody,
    }


def _key_context(ended: StoppedKey) -> dict[str, object]:
    return {
        "kind": ended.kind,
        "name": ended.key.name,
        "public_id": ended.key.public_id,
        "owner": ended.key.owner.get_username(),
        "team": ended.key.team.name,
        "fate": ended.fate,
        "works_again": ended.works_again,
        "found_at": ended.url,
        "url": _page_url(ended.page, ended.key.team),
    }


def send_alarm(team: Team, owner_id: int, context: dict[str, object]) -> None:
    """To the owner, also of a deleted key; to the team's admins where the owner has left.

    `context` has `subject`, `told` and `advice`, a text each. The mail is written with the
    connection that `team` was read with.
    """
    people = emails.owner_or_admins(team, owner_id)
    context = {"team": team.name, "url": _page_url("keys:list", team), **context}
    emails.send(
        emails.build_messages("leaks/email/suspected", people, context), using=team._state.db
    )


def _page_url(name: str, team: Team) -> str:
    """Empty where nobody has said which address of ours people use."""
    return f"{settings.PUBLIC_URL}{reverse(name, args=[team.slug])}" if settings.PUBLIC_URL else ""

"""Telling those whom it concerns that a key leaked, or may have.

A notice is put into the outbox, so neither a caller nor a worker waits for a mail server. What an
anonymous reporter wrote is not passed on, or a report would be a way to send people links. A
notice of a leak is written after the key's end is committed, and can't undo it: an error is logged.
"""

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from django.conf import settings
from django.db import DatabaseError
from django.urls import reverse

from keyportal.keys import mail
from keyportal.keys.cases import MANAGEMENT_KEY, Case, Ended
from keyportal.keys.reports import SOMEBODY
from keyportal.teams.models import Team, User

logger = logging.getLogger(__name__)
P = ParamSpec("P")
LISTED = 50  # In one letter, which may be of a thousand.
HOLDERS = "somebody who holds them"


def undoing_nothing(tell: Callable[P, None]) -> Callable[P, None]:
    @wraps(tell)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            tell(*args, **kwargs)
        except DatabaseError as error:
            logger.error("Nobody was told of a leak: %s", type(error).__name__)

    return told


@undoing_nothing
def reported(case: Case) -> None:
    """To the owner and the team's admins of each key that was ended: one letter a person, of all
    that concern them."""
    concerned: dict[User, list[Ended]] = {}
    found: dict[tuple[int, int], list[User]] = {}
    for one in case.ended:
        team, owner_id = one.key.team, one.key.owner_id
        if (team.pk, owner_id) not in found:
            found[team.pk, owner_id] = mail.owner_and_admins(team, owner_id)
        for person in found[team.pk, owner_id]:
            concerned.setdefault(person, []).append(one)
    for person, theirs in concerned.items():
        if any(one.allowed for one in theirs):
            context = _of_leaks(theirs, case.report.reporter)
            mail.send(mail.letters("keys/email/leaked", [person], context))


def _of_leaks(ended: list[Ended], reporter: str) -> dict[str, object]:
    told = [_of_leak(one) for one in ended]
    bounds = {(one.key.team.pk, one.allowed.person): one.allowed for one in ended if one.allowed}
    fates = [fate for fate in ("disabled", "deleted") if any(one["fate"] == fate for one in told)]
    holders = HOLDERS if len(told) > 1 else SOMEBODY
    return {
        **told[0],
        "keys": told[:LISTED],
        "count": len(told),
        "unlisted": len(told[LISTED:]),
        "reporter": holders if reporter == SOMEBODY else reporter,
        "fate": " or ".join(fates),
        "has_disabled": "disabled" in fates,
        "has_deleted": "deleted" in fates,
        "has_management": any(one.kind == MANAGEMENT_KEY for one in ended),
        "urls": sorted({str(one["url"]) for one in told}),
        "bounds": [*bounds.values()],
    }


def _of_leak(one: Ended) -> dict[str, object]:
    return {
        "kind": one.kind,
        "name": one.key.name,
        "public_id": one.key.public_id,
        "owner": one.key.owner.get_username(),
        "team": one.key.team.name,
        "fate": "deleted" if one.is_deleted else "disabled",
        "works_again": one.works_again,
        "found_at": one.url,
        "url": _page(one.page, one.key.team),
    }


def suspected(team: Team, owner_id: int, context: dict[str, object]) -> None:
    """To the owner, also of a deleted key; to the team's admins where the owner has left.

    `context` has `subject`, `told` and `advice`, a text each. The mail is written with the
    connection that `team` was read with.
    """
    people = mail.owner_or_admins(team, owner_id)
    context = {"team": team.name, "url": _page("keys:list", team), **context}
    mail.send(mail.letters("keys/email/suspected", people, context), using=team._state.db)


def _page(name: str, team: Team) -> str:
    """Empty where nobody has said which address of ours people use."""
    return f"{settings.PUBLIC_URL}{reverse(name, args=[team.slug])}" if settings.PUBLIC_URL else ""

"""The security history of a person: sign-ins, and changes of the account and its factors."""

import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import islice
from typing import NamedTuple

from django.db.models import Q

from keyportal.audit.models import Action, AuditEvent
from keyportal.teams.models import User

MAX_EVENTS = 100
SAME = timedelta(seconds=5)


class Entry(NamedTuple):
    event: AuditEvent
    change: str
    """What changed, or why a sign-in failed; empty for a sign-in."""


def history_of(user: User) -> list[Entry]:
    """The newest events, without those before the account: a deleted one may have had the name."""
    name = user.get_username()
    is_own_sign_in = Q(action=Action.SIGNED_IN, actor_id=user.pk)
    is_failure = Q(action=Action.SIGN_IN_FAILED) & (
        Q(target=name) | Q(target__startswith=f"{name}: ")
    )
    is_change = Q(action=Action.USER_CHANGED, target__startswith=f"User {name}: ")
    events = AuditEvent.objects.filter(
        is_own_sign_in | is_failure | is_change, created_at__gte=user.date_joined
    ).order_by("-created_at", "-id")
    distinct = islice(_without_repetitions(events[: 4 * MAX_EVENTS]), MAX_EVENTS)
    prefix = re.compile(rf"(User )?{re.escape(name)}(: )?")
    return [Entry(event, prefix.sub("", event.target, count=1)) for event in distinct]


def _without_repetitions(events: Iterable[AuditEvent]) -> Iterator[AuditEvent]:
    """A sign-in has one event for each team of the person."""
    last: AuditEvent | None = None
    for event in events:
        is_repeated = last is not None and (
            (event.action, event.target, event.address) == (last.action, last.target, last.address)
            and event.team_slug != last.team_slug
            and last.created_at - event.created_at < SAME
        )
        if not is_repeated:
            yield event
        last = event

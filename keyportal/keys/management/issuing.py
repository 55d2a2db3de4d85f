"""Options of a new key: its owner, its end, and how much it may use."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from keyportal.keys.exceptions import KeyActionError, PolicyBroken
from keyportal.teams.limits import LABELS, Limits
from keyportal.teams.management.operator import get_membership, get_user, updated_limits
from keyportal.teams.models import Role, Team, User

NEVER = "never"
USUAL_DAYS = 90
_SPAN = re.compile(r"([0-9]{1,5})([dh])")
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1)}


def owner_named(username: str, team: Team) -> User:
    """Somebody whose key of this team would work."""
    owner = get_user(username)
    membership = get_membership(owner, team)
    if not membership.is_at_least(Role.MEMBER):
        raise CommandError(f"{owner} only views {team.slug}: a viewer owns no keys.")
    if not (owner.is_active and team.is_active):
        raise CommandError(f"{owner} or {team.slug} is not active: the key would not work.")
    return owner


def limits_given(options: dict[str, Any], team: Team) -> Limits | None:
    """None where none is given, so that the key starts as the team has it."""
    if all(options[name] is None for name in LABELS):
        return None
    return updated_limits(team.key_limits, options)


def expiry(text: str | None) -> datetime | None:
    """From a time or a date (without an offset, UTC), a span such as `30d`, or `never`."""
    if text is None or text == NEVER:
        return None
    moment = _moment(text)
    if moment <= timezone.now():
        raise CommandError(f"{text} is over already.")
    return moment


@contextmanager
def refusals(team: Team, end: datetime | None) -> Iterator[None]:
    """What the rules of keys refuse, and which option is missing where nobody gave an end."""
    try:
        yield
    except PolicyBroken as refusal:
        is_endless = end is None and team.policy.requires_expiry
        days = team.policy.longest_days or USUAL_DAYS
        way_on = f" Give --expires, such as --expires {days}d." if is_endless else ""
        raise CommandError(f"{refusal}{way_on}") from refusal
    except KeyActionError as refusal:
        raise CommandError(str(refusal)) from refusal


def _moment(text: str) -> datetime:
    if span := _SPAN.fullmatch(text):
        return timezone.now() + int(span[1]) * _UNITS[span[2]]
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise CommandError(
            f"{text} is not an ISO 8601 time, nor a span such as 30d, nor {NEVER}."
        ) from None

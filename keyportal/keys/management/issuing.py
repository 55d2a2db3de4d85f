"""Options of a new key: its owner, its details, its expiry and its limits."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandError

from keyportal.database.clock import database_now
from keyportal.keys.exceptions import KeyActionError, PolicyViolation
from keyportal.keys.models import DETAILS
from keyportal.keys.rules.validators import normalize_detail
from keyportal.teams.dates import parse_end
from keyportal.teams.limits import LABELS, Limits
from keyportal.teams.management.operator import get_membership, get_user, updated_limits
from keyportal.teams.models import Role, Team, User

NEVER = "never"
SUGGESTED_DAYS = 90
_DURATION = re.compile(r"([0-9]{1,5})([dh])")
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1)}


def get_owner(username: str, team: Team) -> User:
    """The user with this name. Raises `CommandError` if a key of theirs would not work."""
    owner = get_user(username)
    membership = get_membership(owner, team)
    if not membership.is_at_least(Role.MEMBER):
        raise CommandError(f"{owner} is a viewer of {team.slug}: a viewer cannot own keys.")
    if not (owner.is_active and team.is_active):
        raise CommandError(f"{owner} or {team.slug} is not active: the key would not work.")
    return owner


def parse_details(options: dict[str, Any]) -> dict[str, Any]:
    """The columns of `KeyDetails`; a text without the spaces around it."""
    details = {name: options[name] for name in DETAILS}
    return {
        name: normalize_detail(name, value.strip() if isinstance(value, str) else value)
        for name, value in details.items()
    }


def parse_limits(options: dict[str, Any], team: Team) -> Limits | None:
    """The limits in the options, or None if there are none: the key gets the team's defaults."""
    if all(options[name] is None for name in LABELS):
        return None
    return updated_limits(team.key_limits, options)


def parse_expiry(text: str | None) -> datetime | None:
    """From a time or a date, as `parse_end` reads them, a duration such as `30d`, or `never`."""
    if text is None or text == NEVER:
        return None
    expires_at = _parse_time(text)
    if expires_at <= database_now():
        raise CommandError(f"{text} is in the past.")
    return expires_at


@contextmanager
def command_errors(team: Team, expires_at: datetime | None) -> Iterator[None]:
    """Turn errors of `issue` into `CommandError`, with a hint if the policy requires an expiry."""
    try:
        yield
    except PolicyViolation as error:
        lacks_expiry = expires_at is None and team.policy.requires_expiry
        days = team.policy.max_lifetime_days or SUGGESTED_DAYS
        hint = f" Set --expires, such as --expires {days}d." if lacks_expiry else ""
        raise CommandError(f"{error}{hint}") from error
    except KeyActionError as error:
        raise CommandError(str(error)) from error


def _parse_time(text: str) -> datetime:
    if match := _DURATION.fullmatch(text):
        return database_now() + int(match[1]) * _UNITS[match[2]]
    try:
        return parse_end(text)
    except ValueError:
        raise CommandError(
            f"{text} is not an ISO 8601 time, a duration such as 30d, or {NEVER}."
        ) from None

"""A key as the commands tell it: as JSON for scripts, and as a table for people."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from keyportal.keys.last_use import last_used_at
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import live_secrets
from keyportal.keys.status import state_of

COLUMNS = ("PUBLIC ID", "TEAM", "NAME", "OWNER", "STATE", "EXPIRES", "LAST USED")


Told = dict[str, Any]


def told(key: ApiKey) -> Told:
    """Everything but the key itself; `key` comes from `for_display`, with its team."""
    return all_told([key])[0]


def all_told(keys: Sequence[ApiKey]) -> list[Told]:
    used = last_used_at(keys)
    return [_told(key, used.get(key.public_id)) for key in keys]


def _told(key: ApiKey, used_at: datetime | None) -> Told:
    return {
        "public_id": key.public_id,
        "name": key.name,
        "team": key.team.slug,
        "owner": key.owner.get_username(),
        "state": state_of(key).value,
        "description": key.description,
        "tags": key.tags,
        "masked": key.masked,
        "permissions": key.permissions._asdict(),
        "limits": key.limits._asdict(),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "disabled_at": key.disabled_at,
        "disabled_by": key.disabled_by or None,
        "managed": key.is_managed,
        "reported_at": key.reported_at,
        "last_used_at": used_at,
        "secrets": [_told_secret(one) for one in live_secrets(key)],
    }


def _told_secret(secret: Secret) -> dict[str, Any]:
    """Of one that lives; two while a rotation overlaps."""
    names = ("last4", "created_at", "expires_at", "lasts_until_used", "last_used_at")
    return {name: getattr(secret, name) for name in names}


def table(keys: Iterable[Told]) -> Iterator[str]:
    """Lines: a heading, and one for each key."""
    rows = [COLUMNS, *map(_row, keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def lines(told: Told) -> Iterator[str]:
    """One for each thing that there is to tell of a key, those of its limits that there are."""
    for name, value in _flat(told):
        if value not in (None, "", [], (), False):
            yield f"{name.replace('_', ' ')}: {_in_words(value)}"


def _flat(told: Told) -> Iterator[tuple[str, Any]]:
    for name, value in told.items():
        if isinstance(value, dict):
            yield from _flat(value)
        elif name == "secrets":
            yield name, [f"…{one['last4']}" for one in value]
        else:
            yield name, value


def _row(told: Told) -> tuple[str, ...]:
    names = ("public_id", "team", "name", "owner", "state", "expires_at", "last_used_at")
    return tuple(_in_words(told[name]) for name in names)


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(str, value))
    return "never" if value is None else str(value)

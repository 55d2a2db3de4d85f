"""How commands print a key: as JSON for scripts, and as text for people."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from keyportal.keys.last_use import last_used_times
from keyportal.keys.models import DETAILS, ApiKey, Secret
from keyportal.keys.rotation import live_secrets
from keyportal.keys.status import state_of

COLUMNS = ("PUBLIC ID", "TEAM", "NAME", "OWNER", "STATE", "EXPIRES", "LAST USED")
KeyDocument = dict[str, Any]


def describe_key(key: ApiKey) -> KeyDocument:
    """Everything except the key string. `key` comes from `for_display`, with its team."""
    return describe_keys([key])[0]


def describe_keys(keys: Sequence[ApiKey]) -> list[KeyDocument]:
    times = last_used_times(keys)
    return [_describe(key, times.get(key.public_id)) for key in keys]


def _describe(key: ApiKey, last_used_at: datetime | None) -> KeyDocument:
    return {
        "public_id": key.public_id,
        "name": key.name,
        "team": key.team.slug,
        "owner": key.owner.get_username(),
        "state": state_of(key).value,
        **{name: getattr(key, name) for name in DETAILS},
        "masked": key.masked,
        "permissions": key.permissions._asdict(),
        "limits": key.limits._asdict(),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "disabled_at": key.disabled_at,
        "disabled_by": key.disabled_by or None,
        "managed": key.is_managed,
        "reported_at": key.reported_at,
        "last_used_at": last_used_at,
        "secrets": [_describe_secret(secret) for secret in live_secrets(key)],
    }


def _describe_secret(secret: Secret) -> dict[str, Any]:
    names = ("last4", "created_at", "expires_at", "expires_when_new_used", "last_used_at")
    return {name: getattr(secret, name) for name in names}


def table_lines(documents: Iterable[KeyDocument]) -> Iterator[str]:
    """A heading, and a line for each key."""
    rows = [COLUMNS, *map(_row, documents)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def detail_lines(document: KeyDocument) -> Iterator[str]:
    """A line for each property of a key. Empty ones are left out."""
    for name, value in _flatten(document):
        if value not in (None, "", [], (), False):
            yield f"{name.replace('_', ' ')}: {_format_value(value)}"


def _flatten(document: KeyDocument) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _flatten(value)
        elif name == "secrets":
            yield name, [f"…{secret['last4']}" for secret in value]
        else:
            yield name, value


def _row(document: KeyDocument) -> tuple[str, ...]:
    names = ("public_id", "team", "name", "owner", "state", "expires_at", "last_used_at")
    return tuple(_format_value(document[name]) for name in names)


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(str, value))
    return "never" if value is None else str(value)

"""What the forms of a key showed when they were opened: it tells what was changed in them since."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from keyportal.keys.models import ApiKey
from keyportal.teams.values import with_lists, with_tuples


class About(NamedTuple):
    """What the team reads of a key; each is changed by itself."""

    name: str
    description: str
    tags: tuple[str, ...]

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        return cls(key.name, key.description, tuple(key.tags))

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Self:
        """From what `stored` gave. Raises `TypeError` for what is none of it."""
        return cls(**with_tuples(stored))

    def stored(self) -> dict[str, Any]:
        return with_lists(self._asdict())


class End(NamedTuple):
    """When a key ends; one that was over already is none that its form proposes."""

    expires_at: datetime | None
    is_over: bool = False

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        return cls(key.expires_at, key.has_expired)

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Self:
        """Raises `TypeError`, `ValueError` or `OverflowError` for what `stored` never gave."""
        end = stored.get("expires_at")
        return cls(end and datetime.fromisoformat(end).astimezone(UTC), bool(stored.get("is_over")))

    def stored(self) -> dict[str, Any]:
        return {
            "expires_at": self.expires_at and self.expires_at.isoformat(),
            "is_over": self.is_over,
        }

    @property
    def to_come(self) -> datetime | None:
        return None if self.is_over else self.expires_at

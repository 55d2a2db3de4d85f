"""How much may be used: the limits of a key, and of a team as a roof over its keys."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, Self

import msgspec
from django.core.exceptions import ValidationError

MAX_LIMIT = 10**15  # Fits every database's BIGINT, JSON's exact numbers, and any real use.


class Limits(NamedTuple):
    """Requests and tokens by fixed UTC window, and requests at one time. None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    requests_per_month: int | None = None
    tokens_per_month: int | None = None
    parallel_requests: int | None = None

    @classmethod
    def from_json(cls, stored: Mapping[str, int]) -> Self:
        return cls(**stored)

    def to_json(self) -> dict[str, int]:
        """What is kept of it: only the limits that there are."""
        return {name: limit for name, limit in self._asdict().items() if limit is not None}

    def within(self, ceiling: "Limits") -> bool:
        return not self.above(ceiling)

    def changes_from(self, former: "Limits") -> list[str]:
        """A phrase for each limit that differs, such as `Tokens per day: none → 5000`."""
        return [
            f"{LABELS[name]}: {before or 'none'} → {now or 'none'}"
            for name, before, now in zip(self._fields, former, self, strict=True)
            if before != now
        ]

    def describe(self) -> str:
        set_ones = [f"{LABELS[name].lower()}: {limit}" for name, limit in self.to_json().items()]
        return ", ".join(set_ones) or "no limits"

    def lowest(self, other: "Limits") -> Self:
        """Of each limit the lower one; no limit is the highest."""
        pairs = zip(self, other, strict=True)
        return type(self)(
            *(min((n for n in pair if n is not None), default=None) for pair in pairs)
        )

    def above(self, ceiling: "Limits") -> list[str]:
        """The names of those that are higher than `ceiling` has them; no limit is the highest."""
        return [
            name
            for name, limit, most in zip(self._fields, self, ceiling, strict=True)
            if most is not None and (limit is None or limit > most)
        ]


UNLIMITED = Limits()
LABELS = {
    "requests_per_minute": "Requests per minute",
    "tokens_per_minute": "Tokens per minute",
    "requests_per_day": "Requests per day",
    "tokens_per_day": "Tokens per day",
    "requests_per_month": "Requests per month",
    "tokens_per_month": "Tokens per month",
    "parallel_requests": "Requests at one time",
}


@lru_cache(4096)
def parse(text: str) -> Limits:
    """The limits in a row as the database gives it. Few differ, so few are parsed."""
    return Limits.from_json(msgspec.json.decode(text, type=dict[str, int]))


def validate(limits: Limits) -> None:
    """Whole numbers from 1; a limit of zero is a key that is switched off, which is said so."""
    for name, limit in limits._asdict().items():
        if limit is not None and not (isinstance(limit, int) and 1 <= limit <= MAX_LIMIT):
            raise ValidationError(f"{LABELS[name]}: a whole number from 1 to {MAX_LIMIT}, or none.")

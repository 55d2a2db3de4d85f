"""Limits of requests and tokens: of one key, or of all keys of a team together."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, Self

import msgspec
from django.core.exceptions import ValidationError

MAX_LIMIT = 10**15  # Fits into BIGINT and into exact JSON numbers (2**53).


class Limits(NamedTuple):
    """Requests and tokens per fixed UTC window, and concurrent requests. None means no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    requests_per_month: int | None = None
    tokens_per_month: int | None = None
    parallel_requests: int | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> Self:
        return cls(**data)

    def to_json(self) -> dict[str, int]:
        """Only the limits that are set."""
        return {name: limit for name, limit in self._asdict().items() if limit is not None}

    def is_within(self, ceiling: "Limits") -> bool:
        return not self.above(ceiling)

    def changes_from(self, former: "Limits") -> list[str]:
        """A text for each limit that differs, such as `Tokens per day: none → 5000`."""
        return [
            f"{LABELS[name]}: {before or 'none'} → {now or 'none'}"
            for name, before, now in zip(self._fields, former, self, strict=True)
            if before != now
        ]

    def describe(self) -> str:
        """Such as `tokens per day: 5000`, or `no limits`."""
        texts = [f"{LABELS[name].lower()}: {limit}" for name, limit in self.to_json().items()]
        return ", ".join(texts) or "no limits"

    def lowest(self, other: "Limits") -> Self:
        """The lower value of each limit; None is higher than any number."""
        pairs = zip(self, other, strict=True)
        return type(self)(
            *(min((n for n in pair if n is not None), default=None) for pair in pairs)
        )

    def above(self, ceiling: "Limits") -> list[str]:
        """The names of the limits that exceed those of `ceiling`; None exceeds any number."""
        return [
            name
            for name, limit, max_limit in zip(self._fields, self, ceiling, strict=True)
            if max_limit is not None and (limit is None or limit > max_limit)
        ]


UNLIMITED = Limits()
LABELS = {
    "requests_per_minute": "Requests per minute",
    "tokens_per_minute": "Tokens per minute",
    "requests_per_day": "Requests per day",
    "tokens_per_day": "Tokens per day",
    "requests_per_month": "Requests per month",
    "tokens_per_month": "Tokens per month",
    "parallel_requests": "Parallel requests",
}


@lru_cache(4096)
def parse(text: str) -> Limits:
    """Limits from the JSON text of a column. Cached, because few different texts occur."""
    return Limits.from_json(msgspec.json.decode(text, type=dict[str, int]))


def validate(limits: Limits) -> None:
    """Raises `ValidationError` unless each limit is None or a whole number from 1 to `MAX_LIMIT`.

    Zero is refused: to stop a key, disable it.
    """
    for name, limit in limits._asdict().items():
        if limit is not None and not (isinstance(limit, int) and 1 <= limit <= MAX_LIMIT):
            raise ValidationError(
                f"{LABELS[name]}: must be a whole number from 1 to {MAX_LIMIT}, or none."
            )

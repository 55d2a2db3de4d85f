"""Sums of usage, and what follows from them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from keyportal.usage.models import LATENCY_BOUNDS_MS, LATENCY_COLUMNS

COUNTS = (
    "requests",
    "failures",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "estimated",
)


@dataclass(slots=True)
class Totals:
    """`latencies` has a count for each bucket of the histogram; all zero where none was read."""

    requests: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    estimated: int = 0
    latencies: list[int] = field(default_factory=lambda: [0] * len(LATENCY_COLUMNS))

    @classmethod
    def from_sums(cls, sums: Sequence[Any]) -> Self:
        """`sums` are as in `COUNTS`, and the histogram's after them, if at all."""
        read = cls(*sums[: len(COUNTS)])
        if histogram := sums[len(COUNTS) :]:
            read.latencies = [*histogram]
        return read

    def add(self, other: "Totals", sign: int = 1) -> Self:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + sign * getattr(other, name))
        pairs = zip(self.latencies, other.latencies, strict=True)
        self.latencies = [mine + sign * its for mine, its in pairs]
        return self

    def without(self, parts: Iterable["Totals"]) -> Self:
        """What is left of these when `parts` are taken away."""
        left = type(self)().add(self)
        for part in parts:
            left.add(part, -1)
        return left

    @property
    def failure_percent(self) -> float:
        return 100 * self.failures / self.requests if self.requests else 0.0

    @property
    def median(self) -> float | None:
        return percentile(self.latencies, 0.5)

    @property
    def p95(self) -> float | None:
        return percentile(self.latencies, 0.95)


def total(figures: Iterable[Totals]) -> Totals:
    found = Totals()
    for each in figures:
        found.add(each)
    return found


def percentile(histogram: Sequence[int], share: float) -> float | None:
    """Milliseconds that `share` of all calls stayed below, as if each bucket were filled evenly.

    What took longer than the last bound is told as that bound; None where there was no call.
    """
    wanted, seen, low = share * sum(histogram), 0, 0
    if not wanted:
        return None
    for count, high in zip(histogram, LATENCY_BOUNDS_MS, strict=False):
        if count and seen + count >= wanted:
            return low + (high - low) * (wanted - seen) / count
        seen, low = seen + count, high
    return float(low)

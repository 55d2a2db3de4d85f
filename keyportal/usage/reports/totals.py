"""Sums of usage, and percentages and percentiles of them."""

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
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "audio_prompt_tokens",
    "audio_completion_tokens",
    "image_prompt_tokens",
    "image_completion_tokens",
    "images",
    "estimated_requests",
)


@dataclass(slots=True)
class Totals:
    """Sums of `COUNTS`, and `latencies` with a count for each bucket of the histogram."""

    requests: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    audio_prompt_tokens: int = 0
    audio_completion_tokens: int = 0
    image_prompt_tokens: int = 0
    image_completion_tokens: int = 0
    images: int = 0
    estimated_requests: int = 0
    latencies: list[int] = field(default_factory=lambda: [0] * len(LATENCY_COLUMNS))

    @classmethod
    def from_sums(cls, sums: Sequence[Any]) -> Self:
        """`sums` has the order of `COUNTS`; the counts of the histogram may follow."""
        totals = cls(*sums[: len(COUNTS)])
        if histogram := sums[len(COUNTS) :]:
            totals.latencies = [*histogram]
        return totals

    def add(self, other: "Totals", sign: int = 1) -> Self:
        """Add `other` in place, or subtract it if `sign` is -1."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + sign * getattr(other, name))
        pairs = zip(self.latencies, other.latencies, strict=True)
        self.latencies = [count + sign * other_count for count, other_count in pairs]
        return self

    def without(self, others: Iterable["Totals"]) -> Self:
        """A new object: these totals minus those of `others`."""
        difference = type(self)().add(self)
        for other in others:
            difference.add(other, -1)
        return difference

    @property
    def failure_percent(self) -> float:
        return 100 * self.failures / self.requests if self.requests else 0.0

    @property
    def median(self) -> float | None:
        return percentile(self.latencies, 0.5)

    @property
    def p95(self) -> float | None:
        return percentile(self.latencies, 0.95)


def total(all_totals: Iterable[Totals]) -> Totals:
    result = Totals()
    for totals in all_totals:
        result.add(totals)
    return result


def percentile(histogram: Sequence[int], share: float) -> float | None:
    """The latency in ms below which `share` of all calls are; None if there are no calls.

    It assumes an even distribution within each bucket. Calls in the last bucket, which has no upper
    bound, count as its lower bound.
    """
    wanted, seen, low = share * sum(histogram), 0, 0
    if not wanted:
        return None
    for count, high in zip(histogram, LATENCY_BOUNDS_MS, strict=False):
        if count and seen + count >= wanted:
            return low + (high - low) * (wanted - seen) / count
        seen, low = seen + count, high
    return float(low)

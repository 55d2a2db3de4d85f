"""How much of its limits a key or a team has used. The gateway counts; this module reads."""

from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Q, Sum

from keyportal.database.clock import database_now
from keyportal.teams.limits import LABELS, Limits
from keyportal.usage.models import LEASE_SECONDS, Kind, Lease, Window, window_end, window_start

WINDOW_LIMITS = {
    "requests_per_minute": (Kind.MINUTE, "requests"),
    "tokens_per_minute": (Kind.MINUTE, "tokens"),
    "requests_per_day": (Kind.DAY, "requests"),
    "tokens_per_day": (Kind.DAY, "tokens"),
    "requests_per_month": (Kind.MONTH, "requests"),
    "tokens_per_month": (Kind.MONTH, "tokens"),
}


class LimitUse(NamedTuple):
    """One limit, its current use, and when the count is reset."""

    name: str
    label: str
    limit: int | None
    used: int
    resets_at: datetime | None

    @property
    def is_full(self) -> bool:
        return self.limit is not None and self.used >= self.limit


def limit_uses(subject: str, limits: Limits) -> list[LimitUse]:
    """The use of every limit, set or not, in the order of `LABELS`."""
    now = database_now()  # As for the gateway, which counts.
    counts = _window_counts(subject, now)
    uses = [
        LimitUse(
            name, LABELS[name], getattr(limits, name), counts[kind, unit], window_end(kind, now)
        )
        for name, (kind, unit) in WINDOW_LIMITS.items()
    ]
    name = "parallel_requests"
    return [
        *uses,
        LimitUse(name, LABELS[name], limits.parallel_requests, _running_count(subject, now), None),
    ]


def _window_counts(subject: str, now: datetime) -> dict[tuple[int, str], int]:
    current = Q()
    for kind in Kind:
        current |= Q(kind=kind, start=window_start(kind, now))
    counts: dict[tuple[int, str], int] = {
        (kind, unit): 0 for kind in Kind for unit in ("requests", "tokens")
    }
    for window in Window.objects.filter(current, subject=subject):
        counts[window.kind, "requests"] = window.requests
        counts[window.kind, "tokens"] = window.tokens
    return counts


def _running_count(subject: str, now: datetime) -> int:
    cutoff = now - timedelta(seconds=LEASE_SECONDS)
    leases = Lease.objects.filter(subject=subject, renewed_at__gt=cutoff)
    return leases.aggregate(calls=Sum("calls"))["calls"] or 0

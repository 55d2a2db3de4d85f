"""How much of its limits a key, or a team, has used by now. The gateway counts; this reads."""

from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Q, Sum
from django.utils import timezone

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
    """One limit, what is used of it now, and when that begins again."""

    name: str
    label: str
    limit: int | None
    used: int
    resets_at: datetime | None

    @property
    def is_full(self) -> bool:
        return self.limit is not None and self.used >= self.limit


def limit_uses(subject: str, limits: Limits) -> list[LimitUse]:
    """One row a limit, in the order of `LABELS`, set or not."""
    now = timezone.now()
    counted = _window_counts(subject, now)
    found = [
        LimitUse(
            name, LABELS[name], getattr(limits, name), counted[kind, unit], window_end(kind, now)
        )
        for name, (kind, unit) in WINDOW_LIMITS.items()
    ]
    name = "parallel_requests"
    return [
        *found,
        LimitUse(name, LABELS[name], limits.parallel_requests, _running_count(subject, now), None),
    ]


def _window_counts(subject: str, now: datetime) -> dict[tuple[int, str], int]:
    current = Q()
    for kind in Kind:
        current |= Q(kind=kind, start=window_start(kind, now))
    counted: dict[tuple[int, str], int] = {
        (kind, unit): 0 for kind in Kind for unit in ("requests", "tokens")
    }
    for window in Window.objects.filter(current, subject=subject):
        counted[window.kind, "requests"] = window.requests
        counted[window.kind, "tokens"] = window.tokens
    return counted


def _running_count(subject: str, now: datetime) -> int:
    lost = now - timedelta(seconds=LEASE_SECONDS)
    leases = Lease.objects.filter(subject=subject, seen_at__gt=lost)
    return leases.aggregate(calls=Sum("calls"))["calls"] or 0

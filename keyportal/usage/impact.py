"""What stops when keys go: what called with them within a day, and from where.

Three queries, each as quick for a key with a million calls as for one with ten. Sums by the hour
tell how much there was, by an index on the key. Rows of calls have none, which would make each of
them dearer to write: whence the calls came is looked up among the team's latest ones.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from django.db.models import Count, Sum
from django.utils import timezone

from keyportal.teams.models import Team
from keyportal.usage.models import Call, UsageHour
from keyportal.usage.reports.periods import RANGES

MAX_CALLS_SEARCHED = 10_000  # Of the team's calls, the latest.
MAX_SOURCES = 50  # Pairs of address and agent, of which each list is made.
MAX_LISTED = 5


class TopValues(NamedTuple):
    """The first few, the busiest first, and how many more there are at least."""

    first: list[str]
    more: int


@dataclass
class Impact:
    requests: int
    """Within 24 hours, the present one included."""
    models: TopValues
    addresses: TopValues
    agents: TopValues
    is_cut: bool
    """Whether the team called so often that older calls of the day were not looked at."""


def impact(team: Team, public_ids: Collection[str]) -> Impact:
    """Of all of them together."""
    period = RANGES["24h"][1](timezone.now())
    usage = UsageHour.objects.for_team(team).within(period.start, period.end)
    rows = (
        usage.filter(public_id__in=public_ids)
        .order_by()
        .values_list("model")
        .annotate(requests=Sum("requests"))
        .order_by("-requests", "model")
    )
    models = [*rows]
    calls = Call.objects.for_team(team).filter(started_at__gte=period.start)
    horizon = _search_start(team)
    if is_cut := horizon is not None and horizon > period.start:
        calls = calls.filter(started_at__gte=horizon)
    sources = [
        *calls.filter(public_id__in=public_ids)
        .values_list("address", "agent")
        .annotate(calls=Count("pk"))
        .order_by("-calls", "address", "agent")[:MAX_SOURCES]
    ]
    return Impact(
        requests=sum(requests for _, requests in models),
        models=_top_values([model for model, _ in models]),
        addresses=_top_values([address for address, _, _ in sources]),
        agents=_top_values([agent for _, agent, _ in sources]),
        is_cut=is_cut,
    )


def _search_start(team: Team) -> datetime | None:
    """When the call began at which the search stops, if there are so many."""
    latest = Call.objects.for_team(team).order_by("-started_at", "-pk")
    return latest.values_list("started_at", flat=True)[
        MAX_CALLS_SEARCHED : MAX_CALLS_SEARCHED + 1
    ].first()


def _top_values(values: Iterable[str | None]) -> TopValues:
    """Each once, in the order in which they came, without those that were not told."""
    known = [*dict.fromkeys(value for value in values if value)]
    return TopValues(known[:MAX_LISTED], len(known[MAX_LISTED:]))


def requests_last_day(team: Team, public_ids: Collection[str]) -> dict[str, int]:
    """Within 24 hours, of those of several keys that were called with; one query."""
    period = RANGES["24h"][1](timezone.now())
    usage = UsageHour.objects.for_team(team).within(period.start, period.end)
    rows = usage.filter(public_id__in=public_ids).order_by().values_list("public_id")
    return dict(rows.annotate(requests=Sum("requests")))

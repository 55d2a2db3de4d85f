"""The impact of deleting keys: what called with them within the last 24 hours, and from where.

Four queries, each as fast for a key with a million calls as for one with ten. The number of
requests comes from the hourly sums, by an index on the key. Calls have no such index, which would
make each of them more expensive to write, so addresses and agents are searched among the team's
latest calls.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from django.db.models import Count, Sum

from keyportal.database.clock import database_now
from keyportal.teams.models import Team
from keyportal.usage.models import Call, UsageHour
from keyportal.usage.reports.periods import RANGES

MAX_CALLS_SEARCHED = 10_000  # The latest calls of the team.
MAX_SOURCES = 50  # Pairs of address and user agent; both lists are made from these.
MAX_LISTED = 5


class TopValues(NamedTuple):
    """The busiest values first, at most `MAX_LISTED`, and the minimum number of further ones."""

    first: list[str]
    more: int


@dataclass
class Impact:
    """The use of some keys, all together."""

    requests: int
    """In the current hour and the 23 before it."""
    models: TopValues
    addresses: TopValues
    agents: TopValues
    is_cut: bool
    """Whether the team had so many calls that the older ones of the day were not searched."""


def impact(team: Team, public_ids: Collection[str]) -> Impact:
    """The impact of deleting all these keys."""
    period = RANGES["24h"][1](database_now())
    usage = UsageHour.objects.for_team(team).within(period.start, period.end)
    rows = (
        usage.filter(public_id__in=public_ids)
        .order_by()
        .values_list("model")
        .annotate(requests=Sum("requests"))
        .order_by("-requests", "model")
    )
    models = [*rows]
    search_start = max(period.start, _search_start(team) or period.start)
    calls = Call.objects.for_team(team).filter(started_at__gte=search_start)
    sources = [
        *calls.filter(public_id__in=public_ids)
        .values_list("address", "user_agent")
        .annotate(calls=Count("pk"))
        .order_by("-calls", "address", "user_agent")[:MAX_SOURCES]
    ]
    return Impact(
        requests=sum(requests for _, requests in models),
        models=_top_values([model for model, _ in models]),
        addresses=_top_values([address for address, _, _ in sources]),
        agents=_top_values([agent for _, agent, _ in sources]),
        is_cut=search_start > period.start,
    )


def _search_start(team: Team) -> datetime | None:
    """Start of the oldest call to search; None if the team has fewer calls."""
    latest = Call.objects.for_team(team).order_by("-started_at", "-pk")
    return latest.values_list("started_at", flat=True)[
        MAX_CALLS_SEARCHED : MAX_CALLS_SEARCHED + 1
    ].first()


def _top_values(values: Iterable[str | None]) -> TopValues:
    """Without duplicates and empty values, in the same order."""
    known = [*dict.fromkeys(value for value in values if value)]
    return TopValues(known[:MAX_LISTED], len(known[MAX_LISTED:]))


def requests_last_day(team: Team, public_ids: Collection[str]) -> dict[str, int]:
    """Requests of each key in the last 24 hours, without unused keys; two queries."""
    period = RANGES["24h"][1](database_now())
    usage = UsageHour.objects.for_team(team).within(period.start, period.end)
    rows = usage.filter(public_id__in=public_ids).order_by().values_list("public_id")
    return dict(rows.annotate(requests=Sum("requests")))

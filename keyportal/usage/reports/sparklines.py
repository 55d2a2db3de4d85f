"""Sparklines: the requests of the last 14 days as small bars, for the rows of the key list."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Sum

from keyportal.teams.models import Team
from keyportal.usage.models import UsageDay
from keyportal.usage.reports.periods import RANGES

HEIGHT, BAR, GAP = 18, 3, 1  # In units of the SVG.


@dataclass(frozen=True)
class Sparkline:
    """Requests by day, the oldest day first."""

    days: list[int]

    @property
    def total(self) -> int:
        return sum(self.days)

    @property
    def path(self) -> str:
        """The `d` of an SVG path: a bar for each day; the highest bar has the full height."""
        busiest = max(self.days)
        heights = [max(1, round(HEIGHT * day / busiest)) if day else 0 for day in self.days]
        return "".join(
            f"M{index * (BAR + GAP)} {HEIGHT}v-{height}h{BAR}v{height}z"
            for index, height in enumerate(heights)
            if height
        )


def sparklines(team: Team, public_ids: Collection[str], now: datetime) -> dict[str, Sparkline]:
    """Sparklines of the keys that were used, by public id, in one query."""
    period = RANGES["14d"][1](now)
    usage = UsageDay.objects.for_team(team).within(period.start, period.end)
    rows = (
        usage.filter(public_id__in=public_ids)
        .order_by()
        .values_list("public_id", "start")
        .annotate(Sum("requests"))
    )
    days_by_key: dict[str, list[int]] = {}
    indexes = {moment: index for index, moment in enumerate(period.moments)}
    for public_id, start, requests in rows:
        days = days_by_key.setdefault(public_id, [0] * len(indexes))
        days[indexes[start]] += requests
    return {public_id: Sparkline(days) for public_id, days in days_by_key.items() if any(days)}

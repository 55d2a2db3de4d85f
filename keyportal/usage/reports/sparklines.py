"""The requests of the last 14 days as a line of bars, small enough for a row of the key list."""

from collections.abc import Collection
from dataclasses import dataclass

from django.db.models import Sum
from django.utils import timezone

from keyportal.teams.models import Team
from keyportal.usage.models import UsageDay
from keyportal.usage.reports.periods import RANGES

HEIGHT, BAR, GAP = 18, 3, 1


@dataclass(frozen=True)
class Sparkline:
    days: list[int]

    @property
    def total(self) -> int:
        return sum(self.days)

    @property
    def path(self) -> str:
        """For `d` of an SVG path: a bar a day from the baseline, the highest over all of it."""
        most = max(self.days)
        heights = [max(1, round(HEIGHT * day / most)) if day else 0 for day in self.days]
        return "".join(
            f"M{number * (BAR + GAP)} {HEIGHT}v-{height}h{BAR}v{height}z"
            for number, height in enumerate(heights)
            if height
        )


def sparklines(team: Team, public_ids: Collection[str]) -> dict[str, Sparkline]:
    """Of those that were used, in one query."""
    period = RANGES["14d"][1](timezone.now())
    usage = UsageDay.objects.for_team(team).within(period.start, period.end)
    rows = (
        usage.filter(public_id__in=public_ids)
        .order_by()
        .values_list("public_id", "start")
        .annotate(Sum("requests"))
    )
    found: dict[str, list[int]] = {}
    places = {moment: number for number, moment in enumerate(period.moments)}
    for public_id, start, requests in rows:
        days = found.setdefault(public_id, [0] * len(places))
        days[places[start]] += requests
    return {public_id: Sparkline(days) for public_id, days in found.items() if any(days)}

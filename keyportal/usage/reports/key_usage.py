"""What one key used in the last 14 days, for its page: drawn by the day, and as a table."""

from typing import Any, NamedTuple

from django.utils import timezone

from keyportal.teams.models import Team
from keyportal.usage.models import UsageDay
from keyportal.usage.reports.charts import COUNT_TITLES, Chart, chart_data, moment_text
from keyportal.usage.reports.periods import RANGES
from keyportal.usage.reports.report import Menus, Part, Report, Selection, totals_by_step
from keyportal.usage.reports.totals import Totals, total


class KeyUsage(NamedTuple):
    used: Totals
    chart: Chart
    chart_data: dict[str, Any]


def key_usage(team: Team, public_id: str, name: str) -> KeyUsage:
    """In one query, by the index on the key: other keys of the team make it no slower."""
    period = RANGES["14d"][1](timezone.now())
    usage = UsageDay.objects.for_team(team).within(period.start, period.end)
    steps = totals_by_step(usage.filter(public_id=public_id).order_by(), period)
    used = total(steps)
    part = Part(public_id, name, used, steps=steps)
    found = Report(
        period=period,
        by="key",
        selection=Selection(key=public_id),
        used=used,
        steps=steps,
        parts=[part],
        series=[part],
        menus=Menus([], [], []),
    )
    return KeyUsage(used, _chart(found), chart_data(found))


def _chart(found: Report) -> Chart:
    """Requests are drawn; the table has all that is counted."""
    rows = [
        (
            moment_text(moment, found.period.step),
            [f"{getattr(step, column):,}" for column in COUNT_TITLES],
        )
        for moment, step in zip(found.period.moments, found.steps, strict=True)
    ]
    return Chart("requests", "Usage", [*COUNT_TITLES.values()], rows)

"""The usage of one key in the last 14 days, as a chart and a table by day."""

from datetime import datetime
from typing import Any, NamedTuple

from keyportal.teams.models import Team
from keyportal.usage.models import UsageDay
from keyportal.usage.reports.charts import COUNT_TITLES, Chart, chart_data, moment_text
from keyportal.usage.reports.periods import RANGES
from keyportal.usage.reports.report import Group, Menus, Report, Selection, totals_by_step
from keyportal.usage.reports.totals import Totals, total


class KeyUsage(NamedTuple):
    used: Totals
    chart: Chart
    chart_data: dict[str, Any]


def key_usage(team: Team, public_id: str, name: str, now: datetime) -> KeyUsage:
    """One query, by the index on the key: other keys of the team don't slow it down."""
    period = RANGES["14d"][1](now)
    usage = UsageDay.objects.for_team(team).within(period.start, period.end)
    steps = totals_by_step(usage.filter(public_id=public_id).order_by(), period)
    used = total(steps)
    group = Group(public_id, name, used, steps=steps)
    key_report = Report(
        period=period,
        group_by="key",
        selection=Selection(key=public_id),
        used=used,
        steps=steps,
        groups=[group],
        series=[group],
        menus=Menus([], [], []),
    )
    return KeyUsage(used, _chart(key_report), chart_data(key_report))


def _chart(report: Report) -> Chart:
    """The chart displays requests; its table has all counts."""
    rows = [
        (
            moment_text(moment, report.period.step),
            [f"{getattr(step, column):,}" for column in COUNT_TITLES],
        )
        for moment, step in zip(report.period.moments, report.steps, strict=True)
    ]
    return Chart("requests", "Usage", [*COUNT_TITLES.values()], rows)

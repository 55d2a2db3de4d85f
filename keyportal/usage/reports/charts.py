"""A report as data for charts, and as tables with the same numbers."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from django.utils.html import format_html

from keyportal.usage.reports.periods import Step
from keyportal.usage.reports.report import Group, Report
from keyportal.usage.reports.totals import Totals

COUNT_TITLES = {
    "requests": "Requests",
    "prompt_tokens": "Prompt tokens",
    "completion_tokens": "Completion tokens",
    "failures": "Failures",
}
LATENCY_TITLES = {"median": "Median", "p95": "95th percentile"}


class Chart(NamedTuple):
    """The table of a chart. Each row has a time and a cell for each of `columns`."""

    name: str
    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def charts(report: Report) -> Iterator[Chart]:
    """A table for each kind of count, and one for the latency."""
    names = [group_label(group) for group in report.series]
    columns = names if len(names) == 1 else [*names, "All"]
    moments = [moment_text(moment, report.period.step) for moment in report.period.moments]
    for name, title in COUNT_TITLES.items():
        steps_of_all = [] if len(names) == 1 else [report.steps]
        series = [*(group.steps or [] for group in report.series), *steps_of_all]
        cells = [[f"{getattr(step, name):,}" for step in steps] for steps in series]
        rows = [*zip(moments, map(list, zip(*cells, strict=True)), strict=True)]
        yield Chart(name, title, columns, rows)
    cells_by_step = [
        [duration(getattr(step, name)) for name in LATENCY_TITLES] for step in report.steps
    ]
    rows = [*zip(moments, cells_by_step, strict=True)]
    yield Chart("latency", "Latency", [*LATENCY_TITLES.values()], rows)


def chart_data(report: Report) -> dict[str, Any]:
    """Data for `usage.js`: lists with a number for each step."""
    return {
        "step": report.period.step.value,
        "moments": [moment.isoformat() for moment in report.period.moments],
        "series": [
            {
                "label": group_label(group),
                **{name: _counts(group.steps or [], name) for name in COUNT_TITLES},
            }
            for group in report.series
        ],
        "latency": {name: _rounded_latencies(report.steps, name) for name in LATENCY_TITLES},
    }


def group_label(group: Group) -> str:
    return f"{group.name} (deleted)" if group.is_deleted else group.name


def duration(milliseconds: float | None) -> str:
    """Such as `87 ms`, `1.5 s` or `61 s`; `—` for None."""
    if milliseconds is None:
        return "—"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1000:.{1 if milliseconds < 10_000 else 0}f} s"


def moment_text(moment: datetime, step: Step) -> str:
    """A UTC date for steps of a day; else a `<time>`, which a script converts to local time."""
    if step is Step.DAY:
        return f"{moment:%Y-%m-%d}"
    text = f"{moment:%Y-%m-%d %H:%M} UTC"
    return format_html('<time datetime="{}">{}</time>', moment.isoformat(), text)


def _counts(steps: list[Totals], name: str) -> list[int]:
    return [getattr(step, name) for step in steps]


def _rounded_latencies(steps: list[Totals], name: str) -> list[int | None]:
    latencies = (getattr(step, name) for step in steps)
    return [None if latency is None else round(latency) for latency in latencies]

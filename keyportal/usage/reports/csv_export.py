"""The report as a table for spreadsheets."""

import csv
from collections.abc import Iterator
from io import StringIO

from keyportal.usage.reports.charts import part_label
from keyportal.usage.reports.report import Report
from keyportal.usage.reports.totals import COUNTS

# A spreadsheet takes a cell that begins with one of these for a formula, and runs it.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
HEADING = {"key": ("key", "key_name"), "model": ("model", "model_name")}


def report_csv(report: Report) -> str:
    """A row for each step and each key, or model, that was used in it."""
    out = StringIO()
    writer = csv.writer(out)
    writer.writerow(["start", *HEADING[report.by], *COUNTS, "median_ms", "p95_ms"])
    writer.writerows(_rows(report))
    return out.getvalue()


def _rows(report: Report) -> Iterator[list[object]]:
    for number, moment in enumerate(report.period.moments):
        for part in report.series:
            used = part.steps[number] if part.steps else part.used
            if used.requests:
                what = [escape_formula(part.value or ""), escape_formula(part_label(part))]
                counts = [getattr(used, name) for name in COUNTS]
                latency = [round(used.median or 0), round(used.p95 or 0)]
                yield [moment.isoformat(), *what, *counts, *latency]


def escape_formula(name: str) -> str:
    return f"'{name}" if name.startswith(FORMULA_STARTS) else name

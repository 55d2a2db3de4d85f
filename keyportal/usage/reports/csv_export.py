"""A report as CSV."""

import csv
from collections.abc import Iterator
from io import StringIO

from keyportal.usage.reports.charts import part_label
from keyportal.usage.reports.report import Report
from keyportal.usage.reports.totals import COUNTS

# A spreadsheet treats a cell that begins with one of these as a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
HEADING = {"key": ("key", "key_name"), "model": ("model", "model_name")}


def report_csv(report: Report) -> str:
    """A row for each step and each key or model with requests in it."""
    out = StringIO()
    writer = csv.writer(out)
    writer.writerow(["start", *HEADING[report.by], *COUNTS, "median_ms", "p95_ms"])
    writer.writerows(_rows(report))
    return out.getvalue()


def _rows(report: Report) -> Iterator[list[object]]:
    for index, moment in enumerate(report.period.moments):
        for part in report.series:
            used = part.steps[index] if part.steps else part.used
            if used.requests:
                names = [escape_formula(part.value or ""), escape_formula(part_label(part))]
                counts = [getattr(used, name) for name in COUNTS]
                latency = [round(used.median or 0), round(used.p95 or 0)]
                yield [moment.isoformat(), *names, *counts, *latency]


def escape_formula(name: str) -> str:
    """Attack: CSV injection. A key named `=HYPERLINK(...)` runs in the spreadsheet of an admin."""
    return f"'{name}" if name.startswith(FORMULA_STARTS) else name

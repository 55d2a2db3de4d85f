"""A report as CSV."""

import csv
from collections.abc import Iterable, Iterator
from io import StringIO

from keyportal.usage.reports.charts import group_label
from keyportal.usage.reports.report import Report
from keyportal.usage.reports.totals import COUNTS

# A spreadsheet treats a cell that begins with one of these as a formula. Those for Japanese also do
# so with the full-width characters.
FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")  # noqa: RUF001 - meant
HEADING = {"key": ("key", "key_name"), "model": ("model", "model_name")}


def report_csv(report: Report) -> bytes:
    """A row for each step and each key or model with requests in it."""
    heading = ["start", *HEADING[report.group_by], *COUNTS, "median_ms", "p95_ms"]
    return csv_file([heading, *_rows(report)])


def csv_file(rows: Iterable[Iterable[object]]) -> bytes:
    """A CSV file in which no text is a formula.

    In UTF-8 with a byte order mark: without it, Excel reads another encoding.
    """
    out = StringIO()
    csv.writer(out).writerows(map(_escaped, rows))
    return out.getvalue().encode("utf-8-sig")


def _rows(report: Report) -> Iterator[list[object]]:
    for index, moment in enumerate(report.period.moments):
        for group in report.series:
            used = group.steps[index] if group.steps else group.used
            if used.requests:
                names = [group.value or "", group_label(group)]
                counts = [getattr(used, name) for name in COUNTS]
                latency = [round(used.median or 0), round(used.p95 or 0)]
                yield [moment.isoformat(), *names, *counts, *latency]


def _escaped(row: Iterable[object]) -> list[object]:
    """Attack: CSV injection. A key named `=HYPERLINK(...)` runs in the spreadsheet of an admin."""
    return [
        f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell
        for cell in row
    ]

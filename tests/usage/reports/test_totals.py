"""Percentiles, totals, periods and cells, without a database."""

import csv
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest

from keyportal.usage.models import LATENCY_BOUNDS_MS, LATENCY_COLUMNS
from keyportal.usage.reports.charts import duration
from keyportal.usage.reports.csv_export import csv_file
from keyportal.usage.reports.periods import RANGES, Step, custom_period
from keyportal.usage.reports.totals import Totals, percentile, total

NOW = datetime(2026, 11, 24, 13, 44, 45, 123, tzinfo=UTC)


def histogram(**counts: int) -> list[int]:
    return [counts.get(column, 0) for column in LATENCY_COLUMNS]


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ({}, 0.5, None),
        ({"latency_0": 1}, 0.5, 25),  # Half-way into 0 to 50 ms.
        ({"latency_1": 10}, 0.5, 75),
        ({"latency_1": 10}, 0.95, 97.5),
        ({"latency_0": 5, "latency_2": 5}, 0.5, 50),
        ({"latency_0": 50, "latency_4": 50}, 0.95, 950),
        ({"latency_0": 1, "latency_11": 9}, 0.5, 100_000),  # The last bucket has no upper bound.
        ({"latency_11": 1}, 0.95, 100_000),
    ],
)
def test_percentiles_lie_within_their_bucket(
    counts: dict[str, int], share: float, expected: float | None
) -> None:
    result = percentile(histogram(**counts), share)
    assert result is expected if expected is None else result == pytest.approx(expected)


def test_every_bucket_but_the_last_has_a_bound() -> None:
    assert len(LATENCY_BOUNDS_MS) + 1 == len(LATENCY_COLUMNS)


def test_totals_are_added_and_subtracted() -> None:
    one = Totals.from_sums([4, 1, 10, 20, 5, *range(8), 2, *range(12)])
    two = Totals.from_sums([1, 0, 1, 2, 0, *[1] * 8, 0])
    assert total([one, two]).requests == 5
    assert total([one, two]).latencies == [*range(12)]
    difference = total([one, two]).without([two])
    assert (difference.requests, difference.failures, difference.latencies) == (4, 1, one.latencies)
    assert one.failure_percent == 25
    assert Totals().failure_percent == 0


@pytest.mark.parametrize(
    ("name", "step", "count", "first"),
    [
        ("1h", Step.MINUTE, 60, "2026-11-24T12:45"),
        ("24h", Step.HOUR, 24, "2026-11-23T14:00"),
        ("14d", Step.DAY, 14, "2026-11-11T00:00"),
        ("90d", Step.DAY, 90, "2026-08-27T00:00"),
    ],
)
def test_ranges_end_with_the_current_step(name: str, step: Step, count: int, first: str) -> None:
    period = RANGES[name][1](NOW)
    assert (period.step, len(period.moments)) == (step, count)
    assert period.moments[0].isoformat().startswith(first)
    assert period.moments[-1] == step.floor(NOW)
    assert period.end == period.moments[-1] + step.length


@pytest.mark.parametrize(
    ("ago", "length", "step"),
    [
        (timedelta(hours=3), timedelta(hours=2), Step.MINUTE),
        (timedelta(hours=3), timedelta(hours=2, minutes=1), Step.HOUR),
        (timedelta(days=3), timedelta(hours=1), Step.HOUR),  # Minutes are not stored that long.
        (timedelta(days=3), timedelta(days=3), Step.HOUR),
        (timedelta(days=4), timedelta(days=4), Step.DAY),
        (timedelta(days=91), timedelta(hours=1), Step.DAY),
    ],
)
def test_steps_of_a_custom_period_depend_on_length_and_age(
    ago: timedelta, length: timedelta, step: Step
) -> None:
    start = NOW - ago
    period = custom_period(start, start + length, NOW)
    assert period.step is step
    assert period.start <= start
    assert period.end >= start + length
    assert period.moments[-1] < start + length


def test_a_custom_period_of_whole_days_has_no_extra_day() -> None:
    start, end = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 11, tzinfo=UTC)
    assert len(custom_period(start, end, NOW).moments) == 10


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(None, "—"), (0.4, "0 ms"), (999.4, "999 ms"), (1234, "1.2 s"), (61_000, "61 s")],
)
def test_durations_are_short(milliseconds: float | None, text: str) -> None:
    assert duration(milliseconds) == text


@pytest.mark.parametrize("first", [*"=+-@＝＋－＠\t\r\n"])  # noqa: RUF001 - meant
def test_no_text_is_a_formula(first: str) -> None:
    name = f"{first}SUM(A1)"
    rows: list[list[object]] = [["größe", name], [f"a{name}", -1]]
    file = StringIO(csv_file(rows).decode("utf-8-sig"), newline="")
    assert [*csv.reader(file)] == [["größe", f"'{name}"], [f"a{name}", "-1"]]


def test_csv_begins_with_a_byte_order_mark() -> None:
    assert csv_file([["größe"]]) == b"\xef\xbb\xbfgr\xc3\xb6\xc3\x9fe\r\n"

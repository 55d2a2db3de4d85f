"""Start and end of the windows of limits."""

from datetime import datetime

import pytest

from keyportal.usage.models import Kind, window_end, window_start


@pytest.mark.parametrize(
    ("kind", "now", "start", "end"),
    [
        (Kind.MINUTE, "2026-11-24T13:45:10", "2026-11-24T13:45", "2026-11-24T13:46"),
        (Kind.MINUTE, "2026-11-24T13:45:00", "2026-11-24T13:45", "2026-11-24T13:46"),
        (Kind.MINUTE, "2026-12-31T23:59:59.999999", "2026-12-31T23:59", "2027-01-01T00:00"),
        (Kind.DAY, "2026-11-24T13:45:10", "2026-11-24T00:00", "2026-11-25T00:00"),
        (Kind.DAY, "2026-12-31T23:59:59.999999", "2026-12-31T00:00", "2027-01-01T00:00"),
        (Kind.MONTH, "2026-11-24T13:45:10", "2026-11-01T00:00", "2026-12-01T00:00"),
        (Kind.MONTH, "2026-12-31T23:59:59.999999", "2026-12-01T00:00", "2027-01-01T00:00"),
        (Kind.MONTH, "2027-02-28T00:00:00", "2027-02-01T00:00", "2027-03-01T00:00"),
        (Kind.MONTH, "2028-02-01T00:00:00", "2028-02-01T00:00", "2028-03-01T00:00"),
        (Kind.EVER, "2028-02-01T00:00:00", "1970-01-01T00:00", "9999-12-31T23:59:59.999999"),
    ],
)
def test_windows_are_aligned_to_utc_and_adjacent(
    kind: Kind, now: str, start: str, end: str
) -> None:
    at, begins, ends = (datetime.fromisoformat(text + "+00:00") for text in (now, start, end))
    assert (window_start(kind, at), window_end(kind, at)) == (begins, ends)
    # As the database returns it, and with what the gateway does with the end.
    assert window_end(int(kind), at).timestamp() > at.timestamp()

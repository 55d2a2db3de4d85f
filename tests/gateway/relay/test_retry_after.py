"""`retry-after` in both forms of RFC 9110, and in milliseconds."""

import time
from datetime import UTC, datetime

import pytest

from keyportal.gateway.relay.retry_after import seconds_to_wait

pytestmark = pytest.mark.any_database
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"0", 0),
        (b"30", 30),
        (b"2.5", 2.5),
        (b"Sun, 01 Mar 2026 12:00:20 GMT", 20),
        (b"Sunday, 01-Mar-26 12:00:20 GMT", 20),
        (b"Sun Mar  1 12:00:20 2026", 20),
        (b"Sun, 01 Mar 2026 11:59:20 GMT", 0),
        (b"", 0),
        (b"soon", 0),
        (b"-1", 0),
        (b"1e9", 0),
        (b"nan", 0),
        (b"9" * 5000, 0),
        (b"Sun, 99 Mar 2026 12:00:20 GMT", 0),
        (b"Sun, 01 Mar 99999999999 12:00:20 GMT", 0),
        (b"Fri, 01 Jan 0001 00:00:00 +2359", 0),
        (b"\xff\x00,,,", 0),
    ],
)
def test_seconds_or_date(monkeypatch: pytest.MonkeyPatch, text: bytes, seconds: float) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert seconds_to_wait([(b"content-type", b"x"), (b"retry-after", text)]) == seconds


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [(b"1500", 1.5), (b"0.5", 0.0005), (b"soon", 7), (b"", 7)]
)
def test_milliseconds_come_first(milliseconds: bytes, seconds: float) -> None:
    headers = [(b"retry-after", b"7"), (b"retry-after-ms", milliseconds)]
    assert seconds_to_wait(headers) == seconds


def test_without_the_header_it_is_zero() -> None:
    assert seconds_to_wait([]) == 0

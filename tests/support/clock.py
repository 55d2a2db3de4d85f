"""Keeps a test from crossing the end of a minute, hour, day or month (all in UTC), and gives a host
a wrong clock."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo

import pytest
from django.utils import timezone

MINUTE = 60
DAY = 86_400


def ensure_time_left(seconds: float, period: int = MINUTE) -> None:
    """Wait for the next period, unless at least `seconds` of the current one are left.

    Windows of limits, sums of usage and days of expiry all end at the end of a minute. A test that
    counts within one calls this after its set-up, immediately before it starts to count.
    """
    left = period - time.time() % period
    if left < seconds:
        time.sleep(left + 0.1)


class _OfAllTimes(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, datetime)


@contextmanager
def host(difference: timedelta) -> Iterator[None]:
    """On a host whose clock differs by so much from the database's."""

    class Wrong(datetime, metaclass=_OfAllTimes):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + difference

    with pytest.MonkeyPatch.context() as patched:
        # Not `now` itself, to which models refer as the default of a column.
        patched.setattr(timezone, "datetime", Wrong)
        yield

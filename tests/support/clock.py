"""Tests that end before the clock turns to the next minute, hour, day or month (all in UTC)."""

import time

MINUTE = 60
DAY = 86_400


def leave_time(seconds: float, period: int = MINUTE) -> None:
    """Wait for the next minute, or day, unless so many seconds of this one are left.

    Windows of limits, sums of usage and days of expiry all end together with a minute. A test that
    counts within one calls this when all else is ready.
    """
    left = period - time.time() % period
    if left < seconds:
        time.sleep(left + 0.1)

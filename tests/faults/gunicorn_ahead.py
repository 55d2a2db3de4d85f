"""Gunicorn settings of a node whose clock is two hours ahead, and that cleans all the time."""

import datetime as dt
import time
from typing import Self

AHEAD = 2 * 3600
_time, _datetime = time.time, dt.datetime


class _Ahead(dt.datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Self:
        return super().now(tz) + dt.timedelta(seconds=AHEAD)


# Before a module of ours has imported them.
time.time = lambda: _time() + AHEAD
dt.datetime = _Ahead  # type: ignore[misc]  # that is what a wrong clock is

from tests.faults.gunicorn_cleaning import *  # noqa: E402, F403

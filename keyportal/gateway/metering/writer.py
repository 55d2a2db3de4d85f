"""The thread that writes usage in the background, on a database connection of its own."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from django.db import connections

from keyportal.gateway.metrics.families import USAGE_WRITE, Histogram
from keyportal.gateway.session_watch import SessionWatch

ALIAS = "meter"
STATEMENT_SECONDS = 5.0
T = TypeVar("T")

logger = logging.getLogger(__name__)


class Writer:
    """One per worker. An outage is logged when it begins and when it is over, not every second."""

    def __init__(self) -> None:
        self._is_failing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="meter")
        self.session_watch = SessionWatch(ALIAS, STATEMENT_SECONDS)
        self.times = Histogram(USAGE_WRITE.bounds)
        self.failures = 0

    async def run(self, function: Callable[[], T]) -> T | None:
        """Call `function` in the thread and return its result; None if it failed.

        After a failure the caller tries again later.
        """
        began = time.monotonic()
        try:
            result: T = await asyncio.get_running_loop().run_in_executor(
                self._thread, self.session_watch.run_statements, _run, function
            )
        except Exception as error:
            if not self._is_failing:
                logger.warning("Usage can't be written yet: %s: %s", type(error).__name__, error)
            self._is_failing = True
            self.failures += 1
            return None
        finally:
            self.times.observe(time.monotonic() - began)
        if self._is_failing:
            logger.warning("Usage is written again.")
        self._is_failing = False
        return result

    def close(self) -> "Future[None]":
        """Close the connection after what has been started; the future is done then."""
        closing = self._thread.submit(_close_connection)
        self._thread.shutdown(wait=False)
        return closing


def _run(function: Callable[[], T]) -> T:
    try:
        return function()
    except BaseException:
        _close_connection()  # A broken connection would never recover.
        raise


def _close_connection() -> None:
    # Looked up in the writer's thread: Django has one connection per thread.
    connections[ALIAS].close()

"""The thread that writes what no caller waits for, on a connection of its own."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connections

ALIAS = "meter"
T = TypeVar("T")

logger = logging.getLogger(__name__)


class Writer:
    """One per worker. A failure is logged when it begins and when it is over, not each second."""

    def __init__(self) -> None:
        self._is_failing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="meter")

    async def do(self, work: Callable[[], T]) -> T | None:
        """What `work` returns; None when it failed, and is to be done again some other time."""
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._thread, _run, work)
        except Exception as error:
            if not self._is_failing:
                logger.warning("Usage not written yet: %s: %s", type(error).__name__, error)
            self._is_failing = True
            return None
        if self._is_failing:
            logger.warning("Usage is written again.")
        self._is_failing = False
        return done

    def close(self) -> None:
        self._thread.submit(_close)
        self._thread.shutdown(wait=False)


def _run(work: Callable[[], T]) -> T:
    try:
        return work()
    except BaseException:
        _close()  # One that broke would stay broken for ever.
        raise


def _close() -> None:
    # Looked up here, because elsewhere it would be another thread's connection.
    connections[ALIAS].close()

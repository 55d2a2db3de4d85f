"""Gives up a database session that stays silent, so that its thread opens another one.

A firewall, a load balancer or a pooler may forget a connection without closing it. Then the
time-outs of PostgreSQL do nothing: neither the statement nor an error arrives. The thread that
waits can't help itself, so the event loop shuts its socket down, and the statement fails.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from django.db import connections

from keyportal.database.session import shut_down

CHECK_SECONDS = 0.1
T = TypeVar("T")


class SessionWatch:
    """Watches the connection of one thread. SQLite's has no session."""

    def __init__(self, alias: str, seconds: float) -> None:
        """`seconds` is how long a statement may take."""
        self._alias = alias
        self._seconds = seconds
        self._wrapper: Any = None
        self._began: float | None = None
        self._given_up_at = 0.0

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call `function`, which is watched as one statement. Runs in the thread."""
        if self._wrapper is None:
            self._wrapper = connections[self._alias]  # The same for the life of the thread.
        self._began = time.monotonic()
        try:
            return function(*arguments)
        finally:
            self._began = None

    def run_statements(self, function: Callable[..., T], *arguments: Any) -> T:
        """The same for a function whose statements are watched one by one; they use Django's
        cursors."""
        with connections[self._alias].execute_wrapper(self._watch_statement):
            return self.run(function, *arguments)

    def _watch_statement(
        self, execute: Callable[..., T], sql: str, params: Any, many: bool, context: Any
    ) -> T:
        self._began = time.monotonic()
        return execute(sql, params, many, context)

    def check(self) -> None:
        """Give up the session if its statement takes too long. Runs in the event loop."""
        began, now = self._began, time.monotonic()
        if began is not None and now - max(began, self._given_up_at) > self._seconds:
            self._given_up_at = now
            shut_down(self._wrapper.connection)


async def watch_forever(watches: Iterable[SessionWatch]) -> None:
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        for watch in watches:
            watch.check()

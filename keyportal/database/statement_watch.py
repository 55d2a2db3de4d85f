"""Gives up a session of the portal that stays silent in the middle of a statement.

A firewall, a load balancer or a pooler may forget a connection without closing it. Then neither an
answer nor an error arrives, and PostgreSQL's own time-outs do nothing. A statement may take up to a
minute, though. So another session asks whether PostgreSQL still works on it.
"""

import time
from collections.abc import Callable
from threading import Thread, Timer
from typing import Any, TypeVar

import psycopg

from keyportal.database.session import shut_down

FIRST_CHECK_SECONDS = 2.0
CHECK_SECONDS = 1.0
# PostgreSQL may have ended the statement while its answer is on the way.
CHECKS = 2
# Longer than any statement may take. It counts where a pooler hides which session is whose.
MAX_SECONDS = 65.0
T = TypeVar("T")


class Statement:
    """One that runs now."""

    def __init__(self, wrapper: Any) -> None:
        self.wrapper = wrapper
        self.began = time.monotonic()
        self.checks_left = CHECKS


class StatementWatch:
    """One per process. Its thread is started with the first statement, after the fork."""

    def __init__(self) -> None:
        self._running: dict[int, Statement] = {}
        self._thread: Thread | None = None

    def run(self, wrapper: Any, function: Callable[..., T], *arguments: Any) -> T:
        """Call `function`, which executes one statement with the wrapper's connection."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = Thread(target=self._check_forever, name="statements", daemon=True)
            self._thread.start()
        statement = Statement(wrapper)
        self._running[id(statement)] = statement
        try:
            return function(*arguments)
        finally:
            del self._running[id(statement)]

    def _check_forever(self) -> None:
        while True:
            time.sleep(CHECK_SECONDS)
            for statement in tuple(self._running.values()):
                if time.monotonic() - statement.began > FIRST_CHECK_SECONDS:
                    self._check(statement)

    def _check(self, statement: Statement) -> None:
        connection = statement.wrapper.connection
        if connection is None or _is_working(statement):
            statement.checks_left = CHECKS
            return
        statement.checks_left -= 1
        if statement.checks_left <= 0 and id(statement) in self._running:
            shut_down(connection)


def _is_working(statement: Statement) -> bool:
    """Whether PostgreSQL works on the statement, or waits for a lock."""
    is_late = time.monotonic() - statement.began > MAX_SECONDS
    try:
        own, asked, row = _ask(statement.wrapper)
    except psycopg.Error:
        return False  # No database, so there will be no answer.
    # A pooler invents the process ids that it tells.
    return row == (True,) if own == asked else not is_late


def _ask(wrapper: Any) -> tuple[int, int, Any]:
    """The process id of a new session as told and as asked, and whether the old one is active."""
    with psycopg.connect(**wrapper.get_connection_params()) as session:
        timer = Timer(CHECK_SECONDS, shut_down, [session])
        timer.start()
        try:
            (asked,) = session.execute("SELECT pg_backend_pid()").fetchone() or (0,)
            pid = wrapper.connection.info.backend_pid
            row = session.execute(_IS_ACTIVE, [pid]).fetchone()
        finally:
            timer.cancel()
        return session.info.backend_pid, asked, row


_IS_ACTIVE = "SELECT state = 'active' FROM pg_stat_activity WHERE pid = %s"
statement_watch = StatementWatch()

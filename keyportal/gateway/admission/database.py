"""The admission thread's database connection: fixed SQL, passed directly to the driver.

Django opens and closes the connection. The layers between Django's cursor and the driver's cost
more than the statements themselves: with them, a batch took three times as long.
"""

import sqlite3
import threading
from functools import cache
from typing import Any, cast

import psycopg
from django.db import connections
from psycopg.pq import TransactionStatus

from keyportal.database.postgresql.base import DatabaseWrapper

ALIAS = "admission"

Row = tuple[Any, ...]


class DatabaseLocked(Exception):
    """Another transaction has SQLite's only write lock."""


LOCKED_ERRORS = (psycopg.errors.LockNotAvailable, DatabaseLocked)
"""A lock was not free within the time of `begin`. The caller must roll back."""


class Database:
    """One thread's connection. Closing it rolls back a transaction that isn't committed."""

    is_postgresql: bool
    counts_at_once: bool
    """Not on SQLite, where a transaction takes no round trips, nor behind a pooler, where each
    transaction must begin with settings."""
    wait_ms: int
    """How long a transaction waits for each lock, unless `begin` is told otherwise."""

    def execute(self, sql: str, *parameters: object) -> Any:
        """Execute a statement with the placeholder `%s`; other percent signs are doubled.

        Returns the driver's cursor.
        """
        raise NotImplementedError

    def rows(self, sql: str, *parameters: object) -> list[Row]:
        """Return all rows of a query.

        Attack: a cursor with unread rows keeps SQLite on an old snapshot, in which keys that were
        deleted since then are still valid.
        """
        return cast("list[Row]", self.execute(sql, *parameters).fetchall())

    def begin(self, wait_ms: int | None = None) -> None:
        """Begin a transaction that will write, and waits this long for each lock.

        If that is too short, this or a later statement raises one of LOCKED_ERRORS.
        """
        raise NotImplementedError

    def commit(self) -> None:
        self.execute("COMMIT")

    def rollback(self) -> None:
        self.execute("ROLLBACK")


class SQLite(Database):
    is_postgresql = False
    counts_at_once = False
    wait_ms = 200  # A writer holds the only lock until its commit is on disk.

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._waits_ms = 0

    def execute(self, sql: str, *parameters: object) -> Any:
        return self._connection.execute(_with_question_marks(sql), parameters)

    def begin(self, wait_ms: int | None = None) -> None:
        """Takes the write lock at once: a read that is upgraded later fails, however long it
        waits."""
        if wait_ms is None:
            wait_ms = self.wait_ms
        if wait_ms != self._waits_ms:
            self._connection.execute(f"PRAGMA busy_timeout = {wait_ms}")
            self._waits_ms = wait_ms
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise DatabaseLocked from error

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self.execute("ROLLBACK")


class PostgreSQL(Database):
    is_postgresql = True
    wait_ms = 50  # Other workers hold their locks for one or two.

    def __init__(self, connection: Any, settings: str = "") -> None:
        """`settings` are statements that each transaction begins with."""
        self._cursor = psycopg.Cursor(connection)
        self._begin = f"BEGIN; {settings};" if settings else "BEGIN;"
        self.counts_at_once = not settings

    def execute(self, sql: str, *parameters: object) -> Any:
        return self._cursor.execute(cast("Any", sql), parameters)

    def begin(self, wait_ms: int | None = None) -> None:
        if wait_ms is None:
            wait_ms = self.wait_ms
        # One round trip. Two statements can't be prepared.
        statements = f"{self._begin} SET LOCAL lock_timeout = {wait_ms}"
        self._cursor.execute(cast("Any", statements), prepare=False)

    def rollback(self) -> None:
        # Without a transaction, PostgreSQL would log a warning.
        if self._cursor.connection.info.transaction_status != TransactionStatus.IDLE:
            self.execute("ROLLBACK")


@cache
def _with_question_marks(sql: str) -> str:
    """Return the statement with SQLite's placeholders. There are few statements to cache."""
    return sql.replace("%s", "?").replace("%%", "%")


_thread = threading.local()


def is_open() -> bool:
    """Whether this thread has opened a connection; it may be broken by now."""
    return getattr(_thread, "database", None) is not None


def database() -> Database:
    """Return this thread's connection. Opens it if there is none, which may raise."""
    if not is_open():
        connection = connections[ALIAS]
        connection.ensure_connection()
        _thread.database = (
            PostgreSQL(connection.connection, connection.transaction_settings())
            if isinstance(connection, DatabaseWrapper)
            else SQLite(connection.connection)
        )
    return cast("Database", _thread.database)


def is_usable() -> bool:
    """Whether the connection answers."""
    return connections[ALIAS].is_usable()


def close() -> None:
    """Close this thread's connection; `database` opens a new one."""
    _thread.database = None
    connections[ALIAS].close()

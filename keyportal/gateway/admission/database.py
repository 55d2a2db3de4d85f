"""The admission thread's database connection: fixed SQL, passed directly to the driver.

Django opens and closes the connection. The layers between Django's cursor and the driver's cost
more than the statements themselves: with them, a batch took three times as long.
"""

import threading
from functools import cache
from typing import Any, cast

import psycopg
from django.db import connections

ALIAS = "admission"

Row = tuple[Any, ...]


class Database:
    """One thread's connection. Closing it rolls back a transaction that isn't committed."""

    is_postgresql: bool
    begin_statement: str

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

    def begin(self) -> None:
        """Begin a transaction that will write."""
        self.execute(self.begin_statement)

    def commit(self) -> None:
        self.execute("COMMIT")


class SQLite(Database):
    is_postgresql = False
    # Takes the write lock at once: a read that is upgraded later fails, however long it waits.
    begin_statement = "BEGIN IMMEDIATE"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, sql: str, *parameters: object) -> Any:
        return self._connection.execute(_with_question_marks(sql), parameters)


class PostgreSQL(Database):
    is_postgresql = True
    begin_statement = "BEGIN"

    def __init__(self, connection: Any) -> None:
        self._cursor = psycopg.Cursor(connection)

    def execute(self, sql: str, *parameters: object) -> Any:
        return self._cursor.execute(cast("Any", sql), parameters)


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
        kind = PostgreSQL if connection.vendor == "postgresql" else SQLite
        _thread.database = kind(connection.connection)
    return cast("Database", _thread.database)


def is_usable() -> bool:
    """Whether the connection answers."""
    return connections[ALIAS].is_usable()


def close() -> None:
    """Close this thread's connection; `database` opens a new one."""
    _thread.database = None
    connections[ALIAS].close()

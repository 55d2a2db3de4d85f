"""The admission thread's way to the database: fixed SQL, handed straight to the driver.

Django opens the connection and closes it. Between its cursor and the driver's own lies more than
the statements themselves cost: with it, a batch took three times as long.
"""

import threading
from functools import cache
from typing import Any, cast

import psycopg
from django.db import connections

ALIAS = "admission"

Row = tuple[Any, ...]


class Database:
    """One thread's connection. What was begun and isn't committed ends with the connection."""

    is_postgresql: bool
    begins_with: str

    def run(self, sql: str, *parameters: object) -> Any:
        """Execute a statement in which a parameter is `%s`, and a percent sign is doubled.

        Returns the driver's cursor.
        """
        raise NotImplementedError

    def rows(self, sql: str, *parameters: object) -> list[Row]:
        """All that the statement returns. A cursor with some left would keep SQLite on an old
        snapshot, in which keys that were deleted since are still alive."""
        return cast("list[Row]", self.run(sql, *parameters).fetchall())

    def begin(self) -> None:
        """Begin a transaction that will write."""
        self.run(self.begins_with)

    def commit(self) -> None:
        self.run("COMMIT")


class SQLite(Database):
    is_postgresql = False
    # Its lock at once: a read that is upgraded halfway fails, however long it would wait.
    begins_with = "BEGIN IMMEDIATE"

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def run(self, sql: str, *parameters: object) -> Any:
        return self._raw.execute(_marked(sql), parameters)


class PostgreSQL(Database):
    is_postgresql = True
    begins_with = "BEGIN"

    def __init__(self, raw: Any) -> None:
        self._cursor = psycopg.Cursor(raw)

    def run(self, sql: str, *parameters: object) -> Any:
        return self._cursor.execute(cast("Any", sql), parameters)


@cache
def _marked(sql: str) -> str:
    """As SQLite's driver takes it. Statements are few, so few are kept."""
    return sql.replace("%s", "?").replace("%%", "%")


_thread = threading.local()


def is_open() -> bool:
    """Whether this thread has a connection, be it a dead one."""
    return getattr(_thread, "database", None) is not None


def database() -> Database:
    """This thread's connection; opened if there is none, which may raise."""
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
    """The next one who needs a connection opens another."""
    _thread.database = None
    connections[ALIAS].close()

"""The database: whether it can be written, its clock, its tables, and its connections."""

import time
from collections.abc import Iterator

from django.conf import settings
from django.db import DatabaseError, connection

from keyportal.server.doctor.findings import Finding, ok, problem
from keyportal.server.health import is_read_only, missing_migrations

MAX_SKEW_SECONDS = 2.0
# Of each worker: those of pages, and one each for admission, usage and the readiness check.
POOL_CONNECTIONS, OTHER_CONNECTIONS = 8, 3


def access() -> Iterator[Finding]:
    name = "database"
    try:
        connection.ensure_connection()
        if is_read_only("default"):
            yield problem(name, "It is read-only, such as a hot standby. Use the primary.")
            return
        yield from _clock_skew()
        yield ok(name, f"{connection.display_name} {_version()}, can be written{_timeouts()}.")
    except DatabaseError as error:
        text = " ".join(str(error).split())
        yield problem(name, f"{text}. Check DATABASE_URL, and that the database runs.")


def _clock_skew() -> Iterator[Finding]:
    """Compare the clocks. Expiry, limits and usage go by the database's, sessions by ours."""
    if connection.vendor != "postgresql":
        return
    before = time.time()
    skew = float(_value("SELECT extract(epoch FROM clock_timestamp())")) - before
    if abs(skew) > MAX_SKEW_SECONDS:
        text = (
            f"The clock of the database differs by {skew:.0f} s from this host's. Use NTP on both."
        )
        yield problem("clock", text)
    else:
        yield ok("clock", "The database and this host have the same time.")


def migrations() -> Iterator[Finding]:
    if missing := missing_migrations("default"):
        text = f"Not applied: {', '.join(missing)}. A start applies them, or `manage.py migrate`."
        yield problem("migrations", text)
    else:
        yield ok("migrations", "All are applied.")


def connections() -> Iterator[Finding]:
    """Whether all workers of this host may open all their connections."""
    if connection.vendor != "postgresql":
        return
    most = int(_value("SHOW max_connections")) - int(_value("SHOW superuser_reserved_connections"))
    workers = settings.WEB_CONCURRENCY
    need = workers * (POOL_CONNECTIONS + OTHER_CONNECTIONS)
    text = f"{workers} workers open up to {need}; the database has {most} for all hosts."
    if need > most:
        text += " Raise max_connections, or lower WEB_CONCURRENCY."
    yield Finding("connections", need > most, text)


def _version() -> str:
    return ".".join(map(str, connection.get_database_version()))


def _timeouts() -> str:
    if connection.vendor != "postgresql":
        return ""
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    return "; " + ", ".join(f"{name} {_value(f'SHOW {name}')}" for name in names)


def _value(sql: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return str(cursor.fetchone()[0])

"""Rate limits of the management API: per management key, and per IP address for invalid keys.

A limit is a number of requests in each minute of the database's clock. The count is in the
database, so that all workers and hosts count together, even if their clocks differ. A request over
the limit is not counted.
"""

from django.db import connection

from keyportal.http.addresses import client_network
from keyportal.usage.models import START_POSTGRESQL, START_SQLITE, Kind, Window

FAILURES_PER_MINUTE = 60

_COUNT = """
INSERT INTO {windows} (subject, kind, start, requests, tokens)
SELECT %s, kind, {start}, 1, 0 FROM (SELECT {minute} AS kind) AS minute WHERE true
ON CONFLICT (subject, kind, start) DO UPDATE SET requests = {windows}.requests + 1
WHERE {windows}.requests < %s
RETURNING requests
"""
_WINDOW = {"windows": Window._meta.db_table, "minute": Kind.MINUTE.value}
_COUNT_POSTGRESQL = _COUNT.format(start=START_POSTGRESQL, **_WINDOW)
_COUNT_SQLITE = _COUNT.format(start=START_SQLITE, **_WINDOW)
_SECOND_POSTGRESQL = "SELECT floor(extract(second FROM now()))::int"
_SECOND_SQLITE = "SELECT CAST(strftime('%S', 'now') AS integer)"


def count_request(subject: str, limit: int) -> int:
    """Count one request. Returns 0, or, at the limit, the seconds until the next minute."""
    is_postgresql = connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        cursor.execute(_COUNT_POSTGRESQL if is_postgresql else _COUNT_SQLITE, [subject, limit])
        if cursor.fetchone():
            return 0
        cursor.execute(_SECOND_POSTGRESQL if is_postgresql else _SECOND_SQLITE)
        (second,) = cursor.fetchone()
    return 60 - int(second)


def key_subject(public_id: str) -> str:
    return f"management:{public_id}"


def address_subject(address: str | None) -> str:
    return f"stranger:{client_network(address)}"

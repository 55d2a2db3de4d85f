"""How often one management key, or one address with bad ones, may send requests: so many in each
minute of the database's clock.

Counted in the database, so that all workers and hosts count together, also where their clocks
differ. A request over the limit changes nothing.
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


def count(subject: str, limit: int) -> int:
    """Count one more; 0, or the seconds until this is possible again, where there were `limit`."""
    is_postgresql = connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        cursor.execute(_COUNT_POSTGRESQL if is_postgresql else _COUNT_SQLITE, [subject, limit])
        if cursor.fetchone():
            return 0
        cursor.execute(_SECOND_POSTGRESQL if is_postgresql else _SECOND_SQLITE)
        (second,) = cursor.fetchone()
    return 60 - int(second)


def caller_subject(public_id: str) -> str:
    return f"management:{public_id}"


def stranger_subject(address: str | None) -> str:
    return f"stranger:{client_network(address)}"

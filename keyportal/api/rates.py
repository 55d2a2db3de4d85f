"""How often one management key, or one address with bad ones, may ask: by the clock's minute.

Counted in the database, so that all workers and hosts count together. Who is over the limit costs
one statement that changes nothing.
"""

from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

from django.db import connection

from keyportal.activity.windows import Kind, Window, window_end, window_start

FAILURES_PER_MINUTE = 60

_WINDOWS = Window._meta.db_table
_COUNT = f"""
INSERT INTO {_WINDOWS} (subject, kind, start, requests, tokens) VALUES (%s, 1, %s, 1, 0)
ON CONFLICT (subject, kind, start) DO UPDATE SET requests = {_WINDOWS}.requests + 1
WHERE {_WINDOWS}.requests < %s
RETURNING requests
"""  # noqa: S608 - our own names


def now() -> datetime:
    return datetime.now(UTC)


def count(subject: str, limit: int) -> int:
    """Count one more; 0, or the seconds until this is possible again, where there were `limit`."""
    moment = now()
    start = connection.ops.adapt_datetimefield_value(window_start(Kind.MINUTE, moment))
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, [subject, start, limit])
        if cursor.fetchone():
            return 0
    return max(int((window_end(Kind.MINUTE, moment) - moment).total_seconds()), 1)


def caller_subject(public_id: str) -> str:
    return f"management:{public_id}"


def stranger_subject(address: str | None) -> str:
    """IPv6 by the network of 64 bits that one customer has whole."""
    try:
        found = ip_address((address or "").partition("%")[0])
    except ValueError:
        return "stranger:"
    if found.version == 6:
        return f"stranger:{ip_network((found, 64), strict=False).network_address}"
    return f"stranger:{found}"

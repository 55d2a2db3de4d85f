"""The counters' SQL: windows and leases, in both databases' words. Runs in the admission thread.

The database's clock decides which window is now. All writers take their rows in one order, by
subject and kind, so that none waits for another in a circle.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from keyportal.gateway.admission.database import database
from keyportal.usage.models import (
    LEASE_SECONDS,
    START_POSTGRESQL,
    START_SQLITE,
    Lease,
    Window,
    window_end,
)

Addition = tuple[str, int, int, int]
"""Subject, kind, requests, tokens."""


class Total(NamedTuple):
    """What a window holds, all workers' counts together."""

    row: int
    requests: int
    tokens: int
    resets_in: float
    """Seconds."""
    ends_at: float
    """Seconds since 1970, on the database's clock."""


def add(additions: Sequence[Addition]) -> dict[tuple[str, int], Total]:
    """Count up the present windows, and return what they hold by subject and kind.

    Their rows are locked until the transaction ends. `additions` is sorted, each row once.
    """
    if not additions:
        return {}
    rows = _run(_ADD_POSTGRESQL, _ADD_SQLITE, _json(additions)).fetchall()
    return {(subject, kind): _total(kind, *counts) for subject, kind, *counts in rows}


def take_back(requests: Sequence[tuple[int, int]]) -> None:
    """Count down again, in the same transaction: pairs of a window's row and a number."""
    _run(_TAKE_BACK_POSTGRESQL, _TAKE_BACK_SQLITE, _json(requests))


def calls_elsewhere(worker: str, subjects: Sequence[str]) -> dict[str, int]:
    """How many calls of these subjects run in other workers that live."""
    rows = _run(_ELSEWHERE_POSTGRESQL, _ELSEWHERE_SQLITE, _json(subjects), worker).fetchall()
    return dict(rows)


def write_leases(worker: str, running: Mapping[str, int]) -> None:
    """Write how many calls of these subjects run in this worker now."""
    _run(_LEASE_POSTGRESQL, _LEASE_SQLITE, worker, _json(sorted(running.items())))


def renew_leases(worker: str) -> None:
    """Note that this worker lives, and has its calls."""
    _run(_RENEW_POSTGRESQL, _RENEW_SQLITE, worker)


def _run(postgresql: str, sqlite: str, *parameters: str) -> Any:
    here = database()
    return here.run(postgresql if here.is_postgresql else sqlite, *parameters)


def _json(values: Iterable[object]) -> str:
    """What both databases take apart themselves: cheaper than arrays of each type."""
    return msgspec.json.encode(values).decode()


def _total(kind: int, row: int, requests: int, tokens: int, now: float) -> Total:
    ends_at = _end(kind, int(now) // 60)
    return Total(row, requests, tokens, ends_at - now, ends_at)


@lru_cache(64)
def _end(kind: int, minute: int) -> float:
    """Of a window of this kind, in seconds since 1970; all begin with a minute."""
    return window_end(kind, datetime.fromtimestamp(minute * 60, UTC)).timestamp()


_WINDOWS = Window._meta.db_table
_LEASES = Lease._meta.db_table
_POSTGRESQL_ADDED = """(
  SELECT value->>0 AS subject, (value->>1)::int AS kind,
         (value->>2)::bigint AS requests, (value->>3)::bigint AS tokens
  FROM json_array_elements(%s::json)
) AS added"""
_ADD_POSTGRESQL = f"""
INSERT INTO {_WINDOWS} AS held (subject, kind, start, requests, tokens)
SELECT subject, kind, {START_POSTGRESQL}, requests, tokens FROM {_POSTGRESQL_ADDED}
ORDER BY subject, kind
ON CONFLICT (subject, kind, start) DO UPDATE
SET requests = held.requests + excluded.requests, tokens = held.tokens + excluded.tokens
RETURNING subject, kind, id, requests, tokens, extract(epoch FROM now())::float8
"""  # noqa: S608 - nothing of a request is in it
_SQLITE_ADDED = """(
  SELECT json_extract(value, '$[0]') AS subject, json_extract(value, '$[1]') AS kind,
         json_extract(value, '$[2]') AS requests, json_extract(value, '$[3]') AS tokens
  FROM json_each(%s)
) AS added"""
# The WHERE tells SQLite's parser that the ON is no join's.
_ADD_SQLITE = f"""
INSERT INTO {_WINDOWS} (subject, kind, start, requests, tokens)
SELECT subject, kind, {START_SQLITE}, requests, tokens FROM {_SQLITE_ADDED} WHERE true
ON CONFLICT (subject, kind, start) DO UPDATE
SET requests = requests + excluded.requests, tokens = tokens + excluded.tokens
RETURNING subject, kind, id, requests, tokens, (julianday('now') - 2440587.5) * 86400.0
"""  # noqa: S608 - nothing of a request is in it
_TAKE_BACK_POSTGRESQL = f"""
UPDATE {_WINDOWS} SET requests = requests - (value->>1)::bigint
FROM json_array_elements(%s::json) WHERE id = (value->>0)::bigint
"""  # noqa: S608 - nothing of a request is in it
_TAKE_BACK_SQLITE = f"""
UPDATE {_WINDOWS} SET requests = requests - json_extract(back.value, '$[1]')
FROM json_each(%s) AS back WHERE {_WINDOWS}.id = json_extract(back.value, '$[0]')
"""  # noqa: S608 - nothing of a request is in it
_AGO_POSTGRESQL = "now() - interval '{} seconds'"
_AGO_SQLITE = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '-{} seconds')"
_ELSEWHERE = """
SELECT subject, CAST(sum(calls) AS int) FROM {leases}
WHERE subject {among} AND worker <> %s AND seen_at > {dead}
GROUP BY subject
"""
_ELSEWHERE_POSTGRESQL = _ELSEWHERE.format(
    leases=_LEASES,
    # PostgreSQL knows that an array is short, but not how many rows a query returns.
    among="= ANY(ARRAY(SELECT json_array_elements_text(%s::json)))",
    dead=_AGO_POSTGRESQL.format(LEASE_SECONDS),
)
_ELSEWHERE_SQLITE = _ELSEWHERE.format(
    leases=_LEASES,
    among="IN (SELECT value FROM json_each(%s))",
    dead=_AGO_SQLITE.format(LEASE_SECONDS),
)
_LEASE = """
INSERT INTO {leases} (subject, worker, calls, seen_at)
SELECT {subject}, %s, {calls}, {now} FROM {running} WHERE true
ON CONFLICT (subject, worker) DO UPDATE SET calls = excluded.calls, seen_at = excluded.seen_at
"""
_LEASE_POSTGRESQL = _LEASE.format(
    leases=_LEASES,
    subject="value->>0",
    calls="(value->>1)::int",
    now=_AGO_POSTGRESQL.format(0),
    running="json_array_elements(%s::json)",
)
_LEASE_SQLITE = _LEASE.format(
    leases=_LEASES,
    subject="json_extract(value, '$[0]')",
    calls="json_extract(value, '$[1]')",
    now=_AGO_SQLITE.format(0),
    running="json_each(%s)",
)
_RENEW = "UPDATE {} SET seen_at = {} WHERE worker = %s AND calls > 0"
_RENEW_POSTGRESQL = _RENEW.format(_LEASES, _AGO_POSTGRESQL.format(0))
_RENEW_SQLITE = _RENEW.format(_LEASES, _AGO_SQLITE.format(0))

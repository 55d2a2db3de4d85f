"""The rate limiter's SQL for windows and leases, for both databases. Runs in the admission thread.

The database's clock decides which window is current. All writers lock their rows in the same order,
by subject and kind, so there is no deadlock.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from keyportal.gateway.admission.database import LOCKED_ERRORS, database
from keyportal.usage.models import (
    LEASE_SECONDS,
    START_POSTGRESQL,
    START_SQLITE,
    Lease,
    Window,
    window_end,
)

TRY_MS = 2

Addition = tuple[str, int, int, int]
"""Subject, kind, requests, tokens."""
LimitedAddition = tuple[str, int, int, int, int | None, int | None]
"""And the limits of requests and of tokens. None: no limit."""


class Total(NamedTuple):
    """The counts of a window, over all workers."""

    row: int
    requests: int
    tokens: int
    resets_in: float
    """Seconds."""
    ends_at: float
    """Seconds since 1970, on the database's clock."""


def add(additions: Sequence[Addition]) -> dict[tuple[str, int], Total]:
    """Increment the current windows, and return their counts by subject and kind.

    Their rows are locked until the transaction ends. `additions` is sorted, each window once.
    """
    if not additions:
        return {}
    rows = _execute(_ADD_POSTGRESQL, _ADD_SQLITE, _json(additions)).fetchall()
    return {(subject, kind): _total(kind, *counts) for subject, kind, *counts in rows}


def add_within_limits(additions: Sequence[LimitedAddition]) -> dict[tuple[str, int], Total] | None:
    """Do the work of `add` and of its transaction in one statement of PostgreSQL, if nothing can be
    refused. `add` takes three round trips, which cost more than its work.

    Returns None, and increments nothing, unless all windows exist and remain within the limits.
    Then `add` must decide.
    """
    db = database()
    rows = db.rows(_ADD_WITHIN_LIMITS, str(db.wait_ms), _json(additions), len(additions))
    return {(subject, kind): _total(kind, *counts) for subject, kind, *counts in rows} or None


def is_window_locked(key: tuple[str, int]) -> bool:
    """Whether another transaction has this window locked, or has inserted it without a commit."""
    db = database()
    try:
        db.begin(TRY_MS)
        add([(*key, 0, 0)])
    except LOCKED_ERRORS:
        return True
    else:
        return False
    finally:
        db.rollback()


def subtract(requests: Sequence[tuple[int, int]]) -> None:
    """Decrement windows in the same transaction, by pairs of a window's row and a number."""
    _execute(_SUBTRACT_POSTGRESQL, _SUBTRACT_SQLITE, _json(requests))


def calls_elsewhere(worker: str, subjects: Sequence[str]) -> dict[str, int]:
    """Return how many calls of these subjects run in other live workers."""
    rows = _execute(_ELSEWHERE_POSTGRESQL, _ELSEWHERE_SQLITE, _json(subjects), worker).fetchall()
    return dict(rows)


def write_leases(worker: str, running: Mapping[str, int]) -> None:
    """Write how many calls of these subjects run in this worker."""
    _execute(_LEASE_POSTGRESQL, _LEASE_SQLITE, worker, _json(sorted(running.items())))


def renew_leases(worker: str) -> None:
    """Record that this worker is alive and still runs its calls."""
    _execute(_RENEW_POSTGRESQL, _RENEW_SQLITE, worker)


def _execute(postgresql: str, sqlite: str, *parameters: str) -> Any:
    db = database()
    return db.execute(postgresql if db.is_postgresql else sqlite, *parameters)


def _json(values: Iterable[object]) -> str:
    """Return JSON, which both databases can parse. It is cheaper than an array for each type."""
    return msgspec.json.encode(values).decode()


def _total(kind: int, row: int, requests: int, tokens: int, now: float) -> Total:
    ends_at = _end(kind, int(now) // 60)
    return Total(row, requests, tokens, ends_at - now, ends_at)


@lru_cache(64)
def _end(kind: int, minute: int) -> float:
    """Return when a window of this kind ends, in seconds since 1970. All start on a full minute."""
    return window_end(kind, datetime.fromtimestamp(minute * 60, UTC)).timestamp()


_WINDOWS = Window._meta.db_table
_LEASES = Lease._meta.db_table
_POSTGRESQL_ADDED = """(
  SELECT value->>0 AS subject, (value->>1)::int AS kind,
         (value->>2)::bigint AS requests, (value->>3)::bigint AS tokens
  FROM json_array_elements(%s::json)
) AS added"""
_ADD_POSTGRESQL = f"""
INSERT INTO {_WINDOWS} AS counted (subject, kind, start, requests, tokens)
SELECT subject, kind, {START_POSTGRESQL}, requests, tokens FROM {_POSTGRESQL_ADDED}
ORDER BY subject, kind
ON CONFLICT (subject, kind, start) DO UPDATE
SET requests = counted.requests + excluded.requests, tokens = counted.tokens + excluded.tokens
RETURNING subject, kind, id, requests, tokens, extract(epoch FROM now())::float8
"""  # noqa: S608 - contains no data of a request
# Locks the rows in the same order as `add`. It compares also what other workers have added while it
# waited for their locks.
_ADD_WITHIN_LIMITS = f"""
WITH waiting AS MATERIALIZED (
  SELECT set_config('lock_timeout', %s, true)
), added AS (
  SELECT subject, kind, {START_POSTGRESQL} AS start, requests, tokens, max_requests, max_tokens
  FROM (
    SELECT value->>0 AS subject, (value->>1)::int AS kind,
           (value->>2)::bigint AS requests, (value->>3)::bigint AS tokens,
           (value->>4)::bigint AS max_requests, (value->>5)::bigint AS max_tokens
    FROM waiting, json_array_elements(%s::json)
  ) AS elements
), found AS MATERIALIZED (
  SELECT counted.id, added.requests, added.tokens,
         coalesce(counted.requests + added.requests <= max_requests, true)
         AND coalesce(counted.tokens + added.tokens < max_tokens, true) AS has_room
  FROM added JOIN {_WINDOWS} AS counted USING (subject, kind, start)
  ORDER BY subject, kind FOR UPDATE OF counted
)
UPDATE {_WINDOWS} AS counted
SET requests = counted.requests + found.requests, tokens = counted.tokens + found.tokens
FROM found
WHERE counted.id = found.id AND (SELECT count(*) = %s AND bool_and(has_room) FROM found)
RETURNING subject, kind, counted.id, counted.requests, counted.tokens,
          extract(epoch FROM now())::float8
"""  # noqa: S608 - contains no data of a request
_SQLITE_ADDED = """(
  SELECT json_extract(value, '$[0]') AS subject, json_extract(value, '$[1]') AS kind,
         json_extract(value, '$[2]') AS requests, json_extract(value, '$[3]') AS tokens
  FROM json_each(%s)
) AS added"""
# Without the WHERE, SQLite's parser takes the ON for the ON of a join.
_ADD_SQLITE = f"""
INSERT INTO {_WINDOWS} (subject, kind, start, requests, tokens)
SELECT subject, kind, {START_SQLITE}, requests, tokens FROM {_SQLITE_ADDED} WHERE true
ON CONFLICT (subject, kind, start) DO UPDATE
SET requests = requests + excluded.requests, tokens = tokens + excluded.tokens
RETURNING subject, kind, id, requests, tokens, (julianday('now') - 2440587.5) * 86400.0
"""  # noqa: S608 - contains no data of a request
_SUBTRACT_POSTGRESQL = f"""
UPDATE {_WINDOWS} SET requests = requests - (value->>1)::bigint
FROM json_array_elements(%s::json) WHERE id = (value->>0)::bigint
"""  # noqa: S608 - contains no data of a request
_SUBTRACT_SQLITE = f"""
UPDATE {_WINDOWS} SET requests = requests - json_extract(refused.value, '$[1]')
FROM json_each(%s) AS refused WHERE {_WINDOWS}.id = json_extract(refused.value, '$[0]')
"""  # noqa: S608 - contains no data of a request
_AGO_POSTGRESQL = "now() - interval '{} seconds'"
_AGO_SQLITE = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '-{} seconds')"
_ELSEWHERE = """
SELECT subject, CAST(sum(calls) AS int) FROM {leases}
WHERE subject {among} AND worker <> %s AND renewed_at > {expired}
GROUP BY subject
"""
_ELSEWHERE_POSTGRESQL = _ELSEWHERE.format(
    leases=_LEASES,
    # The planner expects an array to be short, but can't tell how many rows a query returns.
    among="= ANY(ARRAY(SELECT json_array_elements_text(%s::json)))",
    expired=_AGO_POSTGRESQL.format(LEASE_SECONDS),
)
_ELSEWHERE_SQLITE = _ELSEWHERE.format(
    leases=_LEASES,
    among="IN (SELECT value FROM json_each(%s))",
    expired=_AGO_SQLITE.format(LEASE_SECONDS),
)
_LEASE = """
INSERT INTO {leases} (subject, worker, calls, renewed_at)
SELECT {subject}, %s, {calls}, {now} FROM {running} WHERE true
ON CONFLICT (subject, worker) DO UPDATE SET calls = excluded.calls, renewed_at = excluded.renewed_at
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
_RENEW = "UPDATE {} SET renewed_at = {} WHERE worker = %s AND calls > 0"
_RENEW_POSTGRESQL = _RENEW.format(_LEASES, _AGO_POSTGRESQL.format(0))
_RENEW_SQLITE = _RENEW.format(_LEASES, _AGO_SQLITE.format(0))

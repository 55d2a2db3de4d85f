"""The counters' SQL: windows and leases, in both databases' words. Runs in the admission thread.

The database's clock decides which window is now. All writers take their rows in one order, by
subject and kind, so that none waits for another in a circle.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.db import connections

from keyportal.activity.windows import (
    LEASE_SECONDS,
    START_POSTGRESQL,
    START_SQLITE,
    window_end,
)

ALIAS = "admission"

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
    if _is_postgresql():
        columns = [list(column) for column in zip(*additions, strict=True)]
        rows = _fetch(_ADD_POSTGRESQL, columns)
    else:
        rows = _fetch(_ADD_SQLITE, [json.dumps(additions)])
    return {(subject, kind): _total(kind, *counts) for subject, kind, *counts in rows}


def take_back(requests: Sequence[tuple[int, int]]) -> None:
    """Count down again, in the same transaction: pairs of a window's row and a number."""
    if _is_postgresql():
        rows, numbers = zip(*requests, strict=True)
        _run(_TAKE_BACK_POSTGRESQL, [list(rows), list(numbers)])
    else:
        _run(_TAKE_BACK_SQLITE, [json.dumps(requests)])


def calls_elsewhere(worker: str, subjects: Sequence[str]) -> dict[str, int]:
    """How many calls of these subjects run in other workers that live."""
    among = _among(subjects)
    sql = _ELSEWHERE.format(among=among.sql, since=_ago(LEASE_SECONDS))
    return dict(_fetch(sql, [*among.parameters, worker]))


def write_leases(worker: str, running: Mapping[str, int]) -> None:
    """Write how many calls of these subjects run in this worker now."""
    with connections[ALIAS].cursor() as cursor:
        cursor.executemany(
            _LEASE.format(now=_ago(0)),
            [(subject, worker, calls) for subject, calls in sorted(running.items())],
        )


def renew_leases(worker: str) -> None:
    """Note that this worker lives, and has its calls."""
    _run(_RENEW.format(now=_ago(0)), [worker])


class Among(NamedTuple):
    """A list to look in, as SQL."""

    sql: str
    parameters: list[Any]


def _among(values: Sequence[str]) -> Among:
    if _is_postgresql():
        return Among("= ANY(%s)", [list(values)])
    return Among("IN (SELECT value FROM json_each(%s))", [json.dumps(values)])


def _is_postgresql() -> bool:
    return connections[ALIAS].vendor == "postgresql"


def _fetch(sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    with connections[ALIAS].cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def _run(sql: str, parameters: Sequence[Any]) -> None:
    with connections[ALIAS].cursor() as cursor:
        cursor.execute(sql, parameters)


def _ago(seconds: int) -> str:
    if _is_postgresql():
        return f"now() - interval '{seconds} seconds'"
    return f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '-{seconds} seconds')"


def _total(kind: int, row: int, requests: int, tokens: int, now: float) -> Total:
    ends_at = window_end(kind, datetime.fromtimestamp(now, UTC)).timestamp()
    return Total(row, requests, tokens, ends_at - now, ends_at)


_ADD_POSTGRESQL = f"""
INSERT INTO activity_window AS held (subject, kind, start, requests, tokens)
SELECT subject, kind, {START_POSTGRESQL}, requests, tokens
FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[])
     AS added (subject, kind, requests, tokens)
ORDER BY subject, kind
ON CONFLICT (subject, kind, start) DO UPDATE
SET requests = held.requests + excluded.requests, tokens = held.tokens + excluded.tokens
RETURNING subject, kind, id, requests, tokens, extract(epoch FROM now())::float8
"""  # noqa: S608 - nothing of a request is in it
# The WHERE tells SQLite's parser that the ON is no join's.
_ADD_SQLITE = f"""
WITH added (subject, kind, requests, tokens) AS (
  SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
         json_extract(value, '$[2]'), json_extract(value, '$[3]') FROM json_each(%s)
)
INSERT INTO activity_window (subject, kind, start, requests, tokens)
SELECT subject, kind, {START_SQLITE}, requests, tokens
FROM added WHERE true
ON CONFLICT (subject, kind, start) DO UPDATE
SET requests = requests + excluded.requests, tokens = tokens + excluded.tokens
RETURNING subject, kind, id, requests, tokens, (julianday('now') - 2440587.5) * 86400.0
"""  # noqa: S608 - nothing of a request is in it
_TAKE_BACK_POSTGRESQL = """
UPDATE activity_window SET requests = requests - number
FROM unnest(%s::bigint[], %s::bigint[]) AS back (window_id, number) WHERE id = window_id
"""
_TAKE_BACK_SQLITE = """
UPDATE activity_window SET requests = requests - json_extract(back.value, '$[1]')
FROM json_each(%s) AS back WHERE activity_window.id = json_extract(back.value, '$[0]')
"""
_ELSEWHERE = """
SELECT subject, CAST(sum(calls) AS int) FROM activity_lease
WHERE subject {among} AND worker <> %s AND seen_at > {since}
GROUP BY subject
"""
_LEASE = """
INSERT INTO activity_lease (subject, worker, calls, seen_at) VALUES (%s, %s, %s, {now})
ON CONFLICT (subject, worker) DO UPDATE SET calls = excluded.calls, seen_at = excluded.seen_at
"""
_RENEW = "UPDATE activity_lease SET seen_at = {now} WHERE worker = %s AND calls > 0"

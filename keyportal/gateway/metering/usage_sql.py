"""Writes a flush of the meter: one transaction, in the writer's thread, in fixed SQL.

Each flush has an id. If the connection breaks during its commit, the outcome is unknown: the flush
is written again with the same id, and counts nothing twice.
"""

import logging
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import msgspec
from django.db import DataError, connections, transaction

from keyportal.audit.models import Tombstone
from keyportal.database.clock import NOW, as_time
from keyportal.gateway.metering.attempts import Attempt
from keyportal.gateway.metering.reported_usage import TokenDetails
from keyportal.gateway.metering.writer import ALIAS
from keyportal.keys import keystring
from keyportal.keys.models import Secret
from keyportal.usage.models import (
    LATENCY_BOUNDS_MS,
    LATENCY_COLUMNS,
    Call,
    UsageDay,
    UsageHour,
    UsageMinute,
)
from keyportal.usage.models import Flush as WrittenFlush

LOST_SECONDS = 60
"""After so long without a sign of life, the running calls of a worker count as lost."""
PROCESS_LOST = "process_lost"
"""The error code of such a call."""
LOST_CALLS_LOCK = 0x6C6F7374  # "lost": the number of the advisory lock.

# Hosts' clocks differ by some milliseconds. Only more than this is corrected.
MAX_SKEW_SECONDS = 1.0

logger = logging.getLogger(__name__)


class LastUse(NamedTuple):
    """When and from where a secret was last used, and by which User-Agent."""

    digest: bytes
    at: float
    """Seconds since 1970."""
    address: str | None
    user_agent: bytes


class CallRecord(NamedTuple):
    """One row of the call log, in the order of its columns."""

    request_id: str
    started_at: float
    """Seconds since 1970."""
    team_slug: str
    public_id: str
    owner_id: int
    endpoint: str
    model: str
    status: int
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    audio_prompt_tokens: int = 0
    audio_completion_tokens: int = 0
    image_prompt_tokens: int = 0
    image_completion_tokens: int = 0
    images: int = 0
    service_tier: str = ""
    is_estimated: bool = False
    first_byte_ms: int | None = None
    duration_ms: int = 0
    address: str | None = None
    user_agent: bytes = b""
    error_code: str = ""
    error_message: str = ""
    attempts: Sequence[Attempt] = ()


Dimensions = tuple[int, str, str, int, str]
"""What usage is summed by: the minute in which the calls ended (seconds since 1970), the team's
slug, the key's public id, the owner's id and the model."""
VerificationGroup = tuple[int, str, str, int, str, bool, int]
"""What verifications are counted by: `Dimensions`, whether they failed, and the duration in ms."""
Lookup = tuple[str, str, str]
"""A request of a key without a row in the call log: team, public id and address."""
Sums = dict[Dimensions, list[int]]
"""Values are in the order of `SUM_COLUMNS`."""
TOKEN_COLUMNS = ("prompt_tokens", "completion_tokens", *TokenDetails._fields)
SUM_COLUMNS = (
    "requests",
    "failures",
    "estimated_requests",
    "duration_ms",
    *TOKEN_COLUMNS,
    *LATENCY_COLUMNS,
)
FIRST_LATENCY = len(SUM_COLUMNS) - len(LATENCY_COLUMNS)
TOKENS_IN_SUMS = slice(4, FIRST_LATENCY)
FIRST_TOKENS = CallRecord._fields.index("prompt_tokens")
TOKENS_IN_RECORD = slice(FIRST_TOKENS, FIRST_TOKENS + len(TOKEN_COLUMNS))
# Each table, and the seconds that one of its rows covers.
TABLES = (
    (UsageMinute._meta.db_table, 60),
    (UsageHour._meta.db_table, 3600),
    (UsageDay._meta.db_table, 86_400),
)


class Flush(NamedTuple):
    """What one transaction writes."""

    id: str
    records: list[CallRecord]
    sums: Sums
    """Of calls without records."""
    uses: Mapping[int, LastUse]
    """By the id of the secret."""
    refused: Mapping[bytes, int]
    """Refused requests, by the digest of their key string: no valid key has it, or the request came
    from outside the key's allowed networks."""
    cut_off: Mapping[bytes, int]
    """Calls that were cut off because their key was no longer valid, by digest."""
    refused_ids: Mapping[bytes, str]
    """The public id in each of the refused key strings, real or made up, by digest."""
    lookups: Collection[Lookup]
    """Written by the anomaly detector, the only one that uses them."""


def add_records(records: Iterable[CallRecord], sums: Sums) -> Sums:
    """Add the records to the sums."""
    for record in records:
        minute = int(record.started_at + record.duration_ms / 1000) // 60 * 60
        dimensions = (minute, record.team_slug, record.public_id, record.owner_id, record.model)
        row = _row_of(sums, dimensions)
        row[0] += 1
        row[1] += record.status >= 400
        row[2] += record.is_estimated
        row[3] += record.duration_ms
        tokens = cast("tuple[int, ...]", record[TOKENS_IN_RECORD])
        row[TOKENS_IN_SUMS] = map(int.__add__, row[TOKENS_IN_SUMS], tokens)
        row[_latency_position(record.duration_ms)] += 1
    return sums


def add_verifications(verifications: Mapping[VerificationGroup, int], sums: Sums) -> None:
    """Add the counts of verifications to the sums."""
    for (*dimensions, is_failure, duration_ms), count in verifications.items():
        row = _row_of(sums, cast("Dimensions", tuple(dimensions)))
        row[0] += count
        row[1] += count * is_failure
        row[3] += count * duration_ms
        row[_latency_position(duration_ms)] += count


def _row_of(sums: Sums, dimensions: Dimensions) -> list[int]:
    if (row := sums.get(dimensions)) is None:
        row = sums[dimensions] = [0] * len(SUM_COLUMNS)
    return row


def _latency_position(duration_ms: int) -> int:
    """The position in a row of the histogram's bin for this duration."""
    return FIRST_LATENCY + bisect_left(LATENCY_BOUNDS_MS, duration_ms)


def write(flush: Flush) -> Mapping[str, int]:
    """Write the flush, unless it was written before.

    Returns the number of requests with deleted or rotated secrets, by public id. Values that the
    database can't store would fail again each time and block all later flushes, so the flush is
    dropped.
    """
    try:
        return _write(flush)
    except (DataError, OverflowError) as error:
        logger.error("Usage dropped: %s: %s", type(error).__name__, error)
    return {}


def _write(flush: Flush) -> Mapping[str, int]:
    began = time.time()
    with transaction.atomic(using=ALIAS), connections[ALIAS].cursor() as cursor:
        cursor.execute(_INSERT_FLUSH.format(now=NOW[connections[ALIAS].vendor]), [flush.id])
        rows = cursor.fetchall()
        if not rows:
            return {}
        now = as_time(rows[0][0]).timestamp()
        skew = _skew(began, now)
        write_records(cursor, flush.records, flush.sums, skew)
        _write_last_uses(cursor, flush.uses, skew)
        return _write_uses_after_deletion(cursor, flush.refused, flush.cut_off, now)


def _skew(began: float, now: float) -> float:
    """The seconds that the database's clock is ahead of this host's; 0 if they agree.

    All hosts write into the same minutes, so their times must be those of one clock.
    """
    does_agree = began - MAX_SKEW_SECONDS < now < time.time() + MAX_SKEW_SECONDS
    return 0.0 if does_agree else now - began


def write_records(
    cursor: Any, records: Iterable[CallRecord], sums: Sums, skew: float = 0.0
) -> None:
    """Write calls that have not been counted yet, and these sums of others.

    `skew` is added to their times.
    """
    if skew:
        records = [each._replace(started_at=each.started_at + skew) for each in records]
        sums = {(int(start + skew) // 60 * 60, *rest): row for (start, *rest), row in sums.items()}  # type: ignore[misc]  # the same types
    _count(cursor, _uncounted(cursor, records, time.time() + skew), sums)


def write_lost_records(cursor: Any, records: Iterable[CallRecord]) -> None:
    """Write calls of a worker that was killed, without those whose end it had recorded."""
    _count(cursor, [each for each in records if not _is_in_log(cursor, each)], {})


def _count(cursor: Any, records: list[CallRecord], sums: Sums) -> None:
    _write_calls(cursor, records)
    sums = add_records(records, {dimensions: [*row] for dimensions, row in sums.items()})
    for table, seconds in TABLES:
        cursor.executemany(_upsert(table), _upsert_rows(sums, seconds))


def _uncounted(cursor: Any, records: Iterable[CallRecord], now: float) -> list[CallRecord]:
    """Without the calls that another worker has counted, because it took this one for dead.

    Only calls that began so long ago can be among them.
    """
    new: list[CallRecord] = []
    old: list[CallRecord] = []
    for record in records:
        (old if record.started_at < now - LOST_SECONDS else new).append(record)
    if old and connections[ALIAS].vendor == "postgresql":
        # Neither may count while the other one looks. SQLite has one writer anyway.
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", [LOST_CALLS_LOCK])
    # Attack: a caller gives many long calls the same request id, so that one of them hides the
    # others. So only a row that was written for a lost call counts here.
    return new + [each for each in old if not _is_in_log(cursor, each, PROCESS_LOST)]


def _is_in_log(cursor: Any, record: CallRecord, error_code: str | None = None) -> bool:
    """Whether this call has a row. When it began is known to a few seconds."""
    began = [_timestamp(record.started_at + seconds) for seconds in (-5, 5)]
    values = [record.team_slug, record.request_id, record.public_id, *began]
    cursor.execute(_SELECT_CALLS, values)
    return any(error_code in {None, code} for (code,) in cursor.fetchall())


def _write_calls(cursor: Any, records: Sequence[CallRecord]) -> None:
    # Most calls of a moment come from a few programs.
    user_agents = {
        agent: _user_agent_text(agent) for agent in {each.user_agent for each in records}
    }
    is_postgresql = connections[ALIAS].vendor == "postgresql"
    adapt = _utc if is_postgresql else _sqlite_time
    rows = [_call_row(record, user_agents, adapt) for record in records]
    if is_postgresql:
        # As one JSON text they cost PostgreSQL nearly twice as much, and one by one six times.
        # Django doesn't translate the errors of `copy`.
        with connections[ALIAS].wrap_database_errors, cursor.copy(_COPY_CALLS) as copy:
            for row in rows:
                copy.write_row(row)
    else:
        cursor.executemany(_INSERT_CALL, rows)


def _upsert_rows(sums: Sums, seconds: int) -> list[list[Any]]:
    """Rows of sums over `seconds`, in the order in which all writers lock rows."""
    totals: Sums = {}
    for (minute, *rest), row in sums.items():
        dimensions: Dimensions = (minute // seconds * seconds, *rest)  # type: ignore[assignment]  # the same types
        total = totals.get(dimensions)
        totals[dimensions] = [*map(int.__add__, total, row)] if total else row
    return [[_timestamp(start), *rest, *row] for (start, *rest), row in sorted(totals.items())]


def _write_last_uses(cursor: Any, uses: Mapping[int, LastUse], skew: float) -> None:
    rows = [
        (
            _timestamp(use.at + skew),
            _ip_address(use.address),
            _user_agent_text(use.user_agent),
            pk,
            use.digest,
        )
        for pk, use in sorted(uses.items())
    ]
    cursor.executemany(_UPDATE_LAST_USE, [row[:4] for row in rows])
    if rows and cursor.rowcount < len(rows):
        # Some were deleted since: their deletion receipts show this last use.
        cursor.executemany(_UPDATE_DELETED_LAST_USE, [(*row[:3], row[4]) for row in rows])


def _write_uses_after_deletion(
    cursor: Any, refused: Mapping[bytes, int], cut_off: Mapping[bytes, int], now: float
) -> Counter[str]:
    """Count refused requests and calls cut off in the tombstones of deleted and rotated secrets.

    Returns the refused requests by public id. Digests without a tombstone are ignored.
    """
    digests = sorted(refused.keys() | cut_off.keys())
    timestamp = _timestamp(now)
    refused_after_deletion: Counter[str] = Counter()
    for start in range(0, len(digests), 500):
        some_digests = digests[start : start + 500]
        placeholders = ", ".join(["%s"] * len(some_digests))
        cursor.execute(f"{_SELECT_DELETED} ({placeholders})", some_digests)
        deleted = sorted((bytes(digest), public_id) for digest, public_id in cursor.fetchall())
        for digest, public_id in deleted:
            count, refused_at = refused.get(digest, 0), timestamp if digest in refused else None
            cursor.execute(_UPDATE_DELETED, [count, refused_at, cut_off.get(digest, 0), digest])
            refused_after_deletion[public_id] += count
    return +refused_after_deletion  # Without keys that only had calls cut off.


def _call_row(
    record: CallRecord, user_agents: Mapping[bytes, str], adapt: Callable[[float], Any]
) -> tuple[Any, ...]:
    request_id, started_at, *middle, address, user_agent, code, message, attempts = record
    return (
        request_id,
        adapt(started_at),
        *middle,
        _ip_address(address),
        user_agents[user_agent],
        code,
        message and keystring.redact(message)[:500],
        msgspec.json.encode(attempts).decode() if attempts else "",
    )


def _timestamp(seconds: float) -> Any:
    """A time in the form that this database takes."""
    return connections[ALIAS].ops.adapt_datetimefield_value(_utc(seconds))


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _sqlite_time(seconds: float) -> str:
    """The same as `_timestamp` on SQLite, in a third of the time."""
    return _utc(seconds).isoformat(" ").removesuffix("+00:00")


def _ip_address(peer: str | None) -> str | None:
    # The address of a link-local peer ends with its interface: `fe80::1%eth0`.
    return (peer or "").partition("%")[0] or None


def _user_agent_text(user_agent: bytes) -> str:
    """The User-Agent as text that a database and a page can take; at most 200 characters."""
    text = "".join(filter(str.isprintable, user_agent.decode("latin-1")))
    # A client may send its key as the User-Agent by mistake; it must not be stored or shown.
    return keystring.redact(text)[:200]


def _upsert(table: str) -> str:
    keys = ("start", "team_slug", "public_id", "owner_id", "model")
    columns = ", ".join((*keys, *SUM_COLUMNS))
    placeholders = ", ".join(["%s"] * (len(keys) + len(SUM_COLUMNS)))
    adding = ", ".join(f"{column} = {table}.{column} + excluded.{column}" for column in SUM_COLUMNS)
    conflict = "(team_slug, start, public_id, owner_id, model)"
    return (
        f"INSERT INTO {table} ({columns}) VALUES ({placeholders}) "  # noqa: S608 - our own names
        f"ON CONFLICT {conflict} DO UPDATE SET {adding}"
    )


_CALLS = Call._meta.db_table
_FLUSHES = WrittenFlush._meta.db_table
_SECRETS = Secret._meta.db_table
_TOMBSTONES = Tombstone._meta.db_table
_INSERT_FLUSH = (
    f"INSERT INTO {_FLUSHES} (flush_id, committed_at) VALUES (%s, {{now}}) "  # noqa: S608 - our own names
    "ON CONFLICT DO NOTHING RETURNING committed_at"
)
_INSERT_CALL = (
    f"INSERT INTO {_CALLS} ({', '.join(CallRecord._fields)}) "  # noqa: S608 - our own names
    f"VALUES ({', '.join(['%s'] * len(CallRecord._fields))})"
)
_COPY_CALLS = f"COPY {_CALLS} ({', '.join(CallRecord._fields)}) FROM STDIN"
_SELECT_CALLS = f"""
SELECT error_code FROM {_CALLS}
WHERE team_slug = %s AND request_id = %s AND public_id = %s AND started_at BETWEEN %s AND %s
"""  # noqa: S608 - our own names
_UPDATE_LAST_USE = f"""
UPDATE {_SECRETS} SET last_used_at = %s, last_used_address = %s, last_used_user_agent = %s
WHERE id = %s
"""  # noqa: S608 - our own names
_UPDATE_DELETED_LAST_USE = f"""
UPDATE {_TOMBSTONES} SET last_used_at = %s, last_used_address = %s, last_used_user_agent = %s
WHERE digest = %s
"""  # noqa: S608 - our own names
_SELECT_DELETED = f"SELECT digest, public_id FROM {_TOMBSTONES} WHERE digest IN"  # noqa: S608 - our own names
_UPDATE_DELETED = f"""
UPDATE {_TOMBSTONES}
SET refused_requests = refused_requests + %s,
    last_refused_at = coalesce(%s, last_refused_at), ended_calls = ended_calls + %s
WHERE digest = %s
"""  # noqa: S608 - our own names

"""What the meter writes: one transaction a flush, in the writer's thread, in fixed SQL.

Each flush carries a mark of its own. One whose outcome is unknown, because the connection broke
while it committed, is written again under the same mark, and counts nothing twice.
"""

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import msgspec
from django.db import DataError, connections, transaction

from keyportal.audit.models import Tombstone
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

logger = logging.getLogger(__name__)


class Use(NamedTuple):
    """When and from where a secret was last used."""

    digest: bytes
    at: float
    """Seconds since 1970."""
    address: str | None
    agent: bytes


class Record(NamedTuple):
    """One call, in the order of its columns."""

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
    is_estimated: bool = False
    first_byte_ms: int | None = None
    duration_ms: int = 0
    address: str | None = None
    agent: bytes = b""


Stretch = tuple[int, str, str, int, str]
"""The minute that the calls ended in, in seconds since 1970; team, key, owner's id and model."""
Alike = tuple[int, str, str, int, str, bool, int]
"""What calls without tokens have in common: the same five, whether they failed, and how many
milliseconds they took."""
Look = tuple[str, str, str]
"""Of a key at what there is to call, which is no call: team, key and address."""
Sums = dict[Stretch, list[int]]
"""In the order of `SUMMED`."""
SUMMED = (
    "requests",
    "failures",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "estimated",
    "duration_ms",
    *LATENCY_COLUMNS,
)
FIRST_LATENCY = len(SUMMED) - len(LATENCY_COLUMNS)
# The table, and how many seconds one of its rows stands for.
TABLES = (
    (UsageMinute._meta.db_table, 60),
    (UsageHour._meta.db_table, 3600),
    (UsageDay._meta.db_table, 86_400),
)


class Flush(NamedTuple):
    """What one transaction writes."""

    mark: str
    records: list[Record]
    sums: Sums
    """Of calls that have no records."""
    uses: Mapping[int, Use]
    """By the secret's id."""
    refused: Mapping[bytes, int]
    """Requests with digests that no live key has, or from where their key may not be used."""
    cut: Mapping[bytes, int]
    """Calls that were running when their key went."""
    claimed: Mapping[bytes, str]
    """The public id that each of the refused digests' keys bore, true or made up."""
    looked: Collection[Look]
    """Written down by the watch, who alone asks where they came from."""


def add_up(records: Iterable[Record], sums: Sums) -> Sums:
    """Add the records to the sums."""
    for record in records:
        minute = int(record.started_at + record.duration_ms / 1000) // 60 * 60
        stretch = (minute, record.team_slug, record.public_id, record.owner_id, record.model)
        row = _row(sums, stretch)
        row[0] += 1
        row[1] += record.status >= 400
        row[2] += record.prompt_tokens
        row[3] += record.completion_tokens
        row[4] += record.cached_tokens
        row[5] += record.is_estimated
        row[6] += record.duration_ms
        row[_latency(record.duration_ms)] += 1
    return sums


def add_up_alike(alike: Mapping[Alike, int], sums: Sums) -> None:
    """Add so many of each kind to the sums."""
    for (*stretch, is_failure, duration_ms), number in alike.items():
        row = _row(sums, cast("Stretch", tuple(stretch)))
        row[0] += number
        row[1] += number * is_failure
        row[6] += number * duration_ms
        row[_latency(duration_ms)] += number


def _row(sums: Sums, stretch: Stretch) -> list[int]:
    if (row := sums.get(stretch)) is None:
        row = sums[stretch] = [0] * len(SUMMED)
    return row


def _latency(duration_ms: int) -> int:
    """The position in a row of the latencies to which this one belongs."""
    return FIRST_LATENCY + bisect_left(LATENCY_BOUNDS_MS, duration_ms)


def write(flush: Flush) -> Mapping[str, int]:
    """Write it, unless it was written before; then there is nothing more to do for it.

    Returns how many requests came with a secret that has ended, by the public id of its key.
    What the database can't hold will never be held: it is given up, because all that comes after
    it would wait for it in vain.
    """
    try:
        return _write(flush)
    except (DataError, OverflowError) as error:
        logger.error("Usage given up: %s: %s", type(error).__name__, error)
    return {}


def _write(flush: Flush) -> Mapping[str, int]:
    with transaction.atomic(using=ALIAS), connections[ALIAS].cursor() as cursor:
        cursor.execute(_MARK, [flush.mark, _moment(datetime.now(UTC).timestamp())])
        if not cursor.rowcount:
            return {}
        _write_calls(cursor, flush.records)
        sums = add_up(flush.records, {stretch: [*row] for stretch, row in flush.sums.items()})
        for table, seconds in TABLES:
            cursor.executemany(_upsert(table), _rows(sums, seconds))
        _write_uses(cursor, flush.uses)
        return _write_afterlives(cursor, flush.refused, flush.cut)


def _write_calls(cursor: Any, records: Iterable[Record]) -> None:
    rows = [_call(record) for record in records]
    if connections[ALIAS].vendor == "postgresql":
        # As one text: sent one by one, rows cost six times what this does.
        named = [dict(zip(Record._fields, row, strict=True)) for row in rows]
        cursor.execute(_CALLS_AS_JSON, [msgspec.json.encode(named).decode()])
    else:
        cursor.executemany(_CALL, rows)


def _rows(sums: Sums, seconds: int) -> list[list[Any]]:
    """Sums of longer stretches, in the one order in which all writers take their rows."""
    longer: Sums = {}
    for (minute, *rest), row in sums.items():
        stretch: Stretch = (minute // seconds * seconds, *rest)  # type: ignore[assignment]  # as it was
        known = longer.get(stretch)
        longer[stretch] = [*map(int.__add__, known, row)] if known else row
    return [[_moment(start), *rest, *row] for (start, *rest), row in sorted(longer.items())]


def _write_uses(cursor: Any, uses: Mapping[int, Use]) -> None:
    rows = [
        (_moment(use.at), _address(use.address), _readable(use.agent), pk, use.digest)
        for pk, use in sorted(uses.items())
    ]
    cursor.executemany(_USE, [row[:4] for row in rows])
    if rows and cursor.rowcount < len(rows):
        # Some were deleted since, and their receipts shall tell of this last request.
        cursor.executemany(_LAST_USE, [(*row[:3], row[4]) for row in rows])


def _write_afterlives(
    cursor: Any, refused: Mapping[bytes, int], cut: Mapping[bytes, int]
) -> Counter[str]:
    """What came after a key's deletion; a digest that was never ours leaves no trace."""
    digests = sorted(refused.keys() | cut.keys())
    now = _moment(datetime.now(UTC).timestamp())
    haunted: Counter[str] = Counter()
    for start in range(0, len(digests), 500):
        some = digests[start : start + 500]
        cursor.execute(f"{_BURIED} ({', '.join(['%s'] * len(some))})", some)
        buried = sorted((bytes(found), public_id) for found, public_id in cursor.fetchall())
        for digest, public_id in buried:
            number, at = refused.get(digest, 0), now if digest in refused else None
            cursor.execute(_AFTERLIFE, [number, at, cut.get(digest, 0), digest])
            haunted[public_id] += number
    return +haunted  # Without those whose calls were only cut.


def _call(record: Record) -> tuple[Any, ...]:
    request_id, started_at, *middle, address, agent = record
    return (request_id, _moment(started_at), *middle, _address(address), _readable(agent))


def _moment(seconds: float) -> Any:
    """A time as this database takes it."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return connections[ALIAS].ops.adapt_datetimefield_value(moment)


def _address(peer: str | None) -> str | None:
    # A link-local peer comes with its interface (`fe80::1%eth0`), which is no address.
    return (peer or "").partition("%")[0] or None


def _readable(agent: bytes) -> str:
    """The User-Agent as text that a database and a page can take; at most 200 characters."""
    sent = "".join(filter(str.isprintable, agent.decode("latin-1")))
    # Someone may send their key as the agent: what is stored and shown never holds one.
    return keystring.redact(sent)[:200]


def _upsert(table: str) -> str:
    keys = ("start", "team_slug", "public_id", "owner_id", "model")
    columns = ", ".join((*keys, *SUMMED))
    marks = ", ".join(["%s"] * (len(keys) + len(SUMMED)))
    adding = ", ".join(f"{column} = {table}.{column} + excluded.{column}" for column in SUMMED)
    conflict = "(team_slug, start, public_id, owner_id, model)"
    return (
        f"INSERT INTO {table} ({columns}) VALUES ({marks}) "  # noqa: S608 - our own names
        f"ON CONFLICT {conflict} DO UPDATE SET {adding}"
    )


_CALLS = Call._meta.db_table
_FLUSHES = WrittenFlush._meta.db_table
_SECRETS = Secret._meta.db_table
_TOMBSTONES = Tombstone._meta.db_table
_MARK = f"INSERT INTO {_FLUSHES} (mark, at) VALUES (%s, %s) ON CONFLICT DO NOTHING"  # noqa: S608 - our own names
_CALL = (
    f"INSERT INTO {_CALLS} ({', '.join(Record._fields)}) "  # noqa: S608 - our own names
    f"VALUES ({', '.join(['%s'] * len(Record._fields))})"
)
_CALLS_AS_JSON = (
    f"INSERT INTO {_CALLS} ({', '.join(Record._fields)}) "  # noqa: S608 - our own names
    f"SELECT {', '.join(Record._fields)} "
    f"FROM json_populate_recordset(NULL::{_CALLS}, %s::json)"
)
_USE = f"""
UPDATE {_SECRETS} SET last_used_at = %s, last_used_ip = %s, last_used_agent = %s WHERE id = %s
"""  # noqa: S608 - our own names
_LAST_USE = f"""
UPDATE {_TOMBSTONES} SET last_used_at = %s, last_used_ip = %s, last_used_agent = %s
WHERE digest = %s
"""  # noqa: S608 - our own names
_BURIED = f"SELECT digest, public_id FROM {_TOMBSTONES} WHERE digest IN"  # noqa: S608 - our own names
_AFTERLIFE = f"""
UPDATE {_TOMBSTONES}
SET refused = refused + %s, refused_at = coalesce(%s, refused_at), ended = ended + %s
WHERE digest = %s
"""  # noqa: S608 - our own names

"""Delete old rows, a few at once, so that no writer waits for long.

Each worker does so once a minute; on PostgreSQL it skips rows that another is deleting.
"""

import asyncio
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from django.conf import settings
from django.db import connections
from django.db.models import Model

from keyportal.gateway.metering.writer import ALIAS, Writer
from keyportal.notifications.models import Reminder
from keyportal.usage.models import (
    Alarm,
    Call,
    EndWish,
    Flush,
    Lease,
    Look,
    Running,
    Sighting,
    UsageHour,
    UsageMinute,
    Window,
)

PAUSE_SECONDS = 60.0
SLICE = 500


class Retention(NamedTuple):
    """Rows of a table, and how long they are kept."""

    model: type[Model]
    column: str
    """The time by which a row is old. Indexed, except where rows are few and this time is
    written again and again, which an index would make slower: leases, running calls."""
    kept: timedelta
    condition: str = "true"

    @property
    def table(self) -> str:
        return self.model._meta.db_table


def retentions() -> tuple[Retention, ...]:
    return (
        Retention(Call, "started_at", timedelta(days=settings.CALL_DAYS)),
        Retention(UsageMinute, "start", timedelta(hours=48)),
        Retention(UsageHour, "start", timedelta(days=100)),
        Retention(Window, "start", timedelta(minutes=10), "kind = 1"),
        Retention(Window, "start", timedelta(days=3), "kind = 2"),
        Retention(Window, "start", timedelta(days=70), "kind = 3"),
        Retention(Flush, "at", timedelta(days=1)),
        Retention(Running, "written_at", timedelta(minutes=1)),
        Retention(EndWish, "wished_at", timedelta(minutes=5)),
        Retention(Lease, "seen_at", timedelta(hours=1)),
        # Much longer than a key is reminded of one end.
        Retention(Reminder, "created_at", timedelta(days=60)),
        Retention(Sighting, "start", timedelta(minutes=20)),
        # With the calls, beside which they are read.
        Retention(Look, "seen_at", timedelta(days=settings.CALL_DAYS)),
        Retention(Alarm, "raised_at", timedelta(days=1)),
    )


class RetentionJob:
    """One per worker; it runs in its event loop."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def clean_forever(self) -> None:
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            await self.clean()

    async def clean(self) -> None:
        """Slice after slice; between two of them the meter's flush has its turn."""
        for rows in retentions():
            deleted: int | None = SLICE
            while deleted == SLICE:
                deleted = await self._writer.do(partial(delete, rows))


# What follows runs in the writer's thread.


def delete(rows: Retention) -> int:
    """Delete the oldest of those that are old enough, a slice at most; return how many.

    The database's clock decides what is old.
    """
    connection = connections[ALIAS]
    seconds = int(rows.kept.total_seconds())
    if connection.vendor == "postgresql":
        before = f"now() - interval '{seconds} seconds'"
        # Materialized: a planner that takes the table for small would select again for each row
        # of it, and lock other rows each time.
        lock, once = "FOR UPDATE SKIP LOCKED", "MATERIALIZED"
    else:
        # Times are text here, as Django writes them.
        before = f"strftime('%Y-%m-%d %H:%M:%f', 'now', '-{seconds} seconds')"
        lock, once = "", ""
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM {rows.table} WHERE id IN (WITH old AS {once} ("  # noqa: S608 - our own names
            f"SELECT id FROM {rows.table} WHERE {rows.condition} AND {rows.column} < {before} "
            f"ORDER BY {rows.column} LIMIT {SLICE} {lock}) SELECT id FROM old)"
        )
        return int(cursor.rowcount)

"""Rows that have had their time go, a few at once, so that no writer waits for long.

Each worker cleans; on PostgreSQL they skip what another is about to delete.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

from django.conf import settings
from django.db import connections

from keyportal.activity.running import EndWish, Running
from keyportal.activity.sightings import Alarm, Look, Sighting
from keyportal.activity.usage import Call, Flush, UsageHour, UsageMinute
from keyportal.activity.windows import Lease, Window
from keyportal.gateway.writer import ALIAS, Writer
from keyportal.keys.models import Reminder, Remnant
from keyportal.keys.remnants import KEPT

PAUSE_SECONDS = 60.0
SLICE = 500


class Ageing(NamedTuple):
    """Rows of a table, and for how long they are kept."""

    table: str
    column: str
    kept: timedelta
    condition: str = ""


def ageing() -> tuple[Ageing, ...]:
    return (
        Ageing(Call._meta.db_table, "started_at", timedelta(days=settings.CALL_DAYS)),
        Ageing(UsageMinute._meta.db_table, "start", timedelta(hours=48)),
        Ageing(UsageHour._meta.db_table, "start", timedelta(days=100)),
        Ageing(Window._meta.db_table, "start", timedelta(minutes=10), "WHERE kind = 1"),
        Ageing(Window._meta.db_table, "start", timedelta(days=3), "WHERE kind = 2"),
        Ageing(Window._meta.db_table, "start", timedelta(days=70), "WHERE kind = 3"),
        Ageing(Flush._meta.db_table, "at", timedelta(days=1)),
        Ageing(Running._meta.db_table, "written_at", timedelta(minutes=1)),
        Ageing(EndWish._meta.db_table, "wished_at", timedelta(minutes=5)),
        Ageing(Lease._meta.db_table, "seen_at", timedelta(hours=1)),
        # Much longer than a key is reminded of one end.
        Ageing(Reminder._meta.db_table, "created_at", timedelta(days=60)),
        Ageing(Remnant._meta.db_table, "reported_at", KEPT),
        Ageing(Sighting._meta.db_table, "start", timedelta(minutes=20)),
        # With the calls, beside which they are read.
        Ageing(Look._meta.db_table, "seen_at", timedelta(days=settings.CALL_DAYS)),
        Ageing(Alarm._meta.db_table, "raised_at", timedelta(days=1)),
    )


class Cleaner:
    """One per worker; it runs in its event loop."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def clean_forever(self) -> None:
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            await self.clean()

    async def clean(self) -> None:
        """Slice after slice; between two of them the meter's flush has its turn."""
        for rows in ageing():
            deleted: int | None = SLICE
            while deleted == SLICE:
                deleted = await self._writer.do(partial(delete, rows))


# What follows runs in the writer's thread.


def delete(rows: Ageing) -> int:
    """Delete the old ones among the first few, and return how many they were.

    No row is older than one that was written before it, so nothing old lies behind a young one,
    and no more than a slice is ever looked at.
    """
    connection = connections[ALIAS]
    before = connection.ops.adapt_datetimefield_value(datetime.now(UTC) - rows.kept)
    # Materialized: a planner that takes the table for small would ask for the first few once more
    # for each row of it, and get others each time, because those are locked by now.
    lock, once = "", ""
    if connection.vendor == "postgresql":
        lock, once = "FOR UPDATE SKIP LOCKED", "MATERIALIZED"
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM {rows.table} WHERE id IN (WITH first AS {once} "  # noqa: S608 - our own names
            f"(SELECT id, {rows.column} FROM {rows.table} {rows.condition} "
            f"ORDER BY id LIMIT {SLICE} {lock}) SELECT id FROM first WHERE {rows.column} < %s)",
            [before],
        )
        return int(cursor.rowcount)

"""Deletes old rows, a few at a time, so that no other writer waits for long.

Each worker does this once a minute. On PostgreSQL it skips rows that another worker is deleting.
"""

import asyncio
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from django.conf import settings
from django.db import connections
from django.db.models import Model

from keyportal.audit.models import AuditEvent
from keyportal.catalog.servers.health import WorkerHealth
from keyportal.database.clock import ago
from keyportal.gateway.metering.lost_calls import count_lost_calls
from keyportal.gateway.metering.writer import ALIAS, Writer
from keyportal.notifications.models import Reminder
from keyportal.usage.models import (
    Alarm,
    Call,
    EndRequest,
    Flush,
    Lease,
    NetworkUse,
    Sighting,
    StoredResponse,
    UsageHour,
    UsageMinute,
    Window,
)

PAUSE_SECONDS = 60.0
SLICE = 500


class Retention(NamedTuple):
    """Rows of one table, and the age at which they are deleted."""

    model: type[Model]
    column: str
    """The time from which a row's age is counted. It is indexed, except in tables with few rows
    whose time is updated often, because an index would make the updates slower: leases, and what
    workers have met."""
    max_age: timedelta
    condition: str = "true"

    @property
    def table(self) -> str:
        return self.model._meta.db_table


def retentions() -> tuple[Retention, ...]:
    return (
        Retention(Call, "started_at", timedelta(days=settings.CALL_RETENTION_DAYS)),
        Retention(UsageMinute, "start", timedelta(hours=48)),
        Retention(UsageHour, "start", timedelta(days=100)),
        Retention(Window, "start", timedelta(minutes=10), "kind = 1"),
        Retention(Window, "start", timedelta(days=3), "kind = 2"),
        Retention(Window, "start", timedelta(days=70), "kind = 3"),
        Retention(Flush, "committed_at", timedelta(days=1)),
        Retention(EndRequest, "requested_at", timedelta(minutes=5)),
        Retention(Lease, "renewed_at", timedelta(hours=1)),
        # Much longer than the period in which mails remind of one expiry.
        Retention(Reminder, "created_at", timedelta(days=60)),
        Retention(Sighting, "start", timedelta(minutes=20)),
        # As long as calls, because pages show both together.
        Retention(NetworkUse, "first_used_at", timedelta(days=settings.CALL_RETENTION_DAYS)),
        Retention(StoredResponse, "created_at", timedelta(days=settings.RESPONSE_RETENTION_DAYS)),
        Retention(Alarm, "raised_at", timedelta(days=1)),
        Retention(WorkerHealth, "written_at", timedelta(minutes=10)),
        *_audit_retention(),
    )


def _audit_retention() -> tuple[Retention, ...]:
    """Empty if the audit is kept for ever. Only its age deletes an event, which code can't."""
    days = settings.AUDIT_RETENTION_DAYS
    return (Retention(AuditEvent, "created_at", timedelta(days=days)),) if days else ()


class RetentionJob:
    """One per worker. It runs in its event loop."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._suspects: set[int] = set()

    async def clean_forever(self) -> None:
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            await self.clean()

    async def clean(self) -> None:
        """Delete slice after slice. Between two slices the meter can flush."""
        counting = partial(count_lost_calls, self._suspects)
        self._suspects = await self._writer.run(counting) or set()
        for retention in retentions():
            deleted: int | None = SLICE
            while deleted == SLICE:
                deleted = await self._writer.run(partial(delete_old_rows, retention))


# The rest runs in the writer's thread.


def delete_old_rows(retention: Retention) -> int:
    """Delete the oldest rows that are old enough, at most `SLICE`; return how many.

    Ages are by the database's clock.
    """
    connection = connections[ALIAS]
    table, column = retention.table, retention.column
    before = ago(connection.vendor, retention.max_age)
    if connection.vendor == "postgresql":
        # Materialized: otherwise, for a table that it takes for small, the planner repeats the
        # SELECT for each row and locks other rows each time.
        lock, once = "FOR UPDATE SKIP LOCKED", "MATERIALIZED"
    else:
        lock, once = "", ""
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM {table} WHERE id IN (WITH old AS {once} ("  # noqa: S608 - our own names
            f"SELECT id FROM {table} WHERE {retention.condition} AND {column} < {before} "
            f"ORDER BY {column} LIMIT {SLICE} {lock}) SELECT id FROM old)",
            (),
        )
        return int(cursor.rowcount)

"""Calls in flight, written down once a second for the portal, and ended where it asks for that.

A worker writes one row for each team that has calls in it, whatever their number. Short calls are
never written: what is over within a second is nothing to look at.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from django.db import connections, transaction

from keyportal.gateway.calls import ActiveCalls, Call
from keyportal.gateway.errors import EndedByAdmin
from keyportal.gateway.metering.writer import ALIAS, Writer
from keyportal.usage.models import EndWish, Running

REPORT_SECONDS = 1.0

Rows = dict[str, list[dict[str, Any]]]
"""What is told of each call, by the slug of its team."""


class RunningCallsReporter:
    """One per worker; every method runs in its event loop."""

    def __init__(self, worker: str, writer: Writer, flight: ActiveCalls) -> None:
        self._worker = worker
        self._writer = writer
        self._flight = flight
        self._told: set[str] = set()

    async def report_forever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self.report()

    async def report(self) -> None:
        """Write which calls run here, and end those that are to end."""
        rows = _rows(self._flight.lasting(REPORT_SECONDS))
        if not rows and not self._told:
            return
        gone = self._told - rows.keys()
        wished = await self._writer.do(partial(write, self._worker, rows, gone))
        if wished is None:
            return
        self._told = set(rows)
        self._flight.end_these(wished, EndedByAdmin)


def _rows(calls: Iterable[Call]) -> Rows:
    rows: Rows = {}
    now, wall = time.monotonic(), time.time()
    for call in calls:
        rows.setdefault(call.verdict.team_slug, []).append(
            {
                "id": call.id,
                "request_id": call.request_id,
                "public_id": call.verdict.public_id,
                "model": call.model,
                "endpoint": call.endpoint,
                "since": wall - (now - call.began),
                "tokens": call.tally.tokens_so_far,
                "address": call.address,
            }
        )
    return rows


# What follows runs in the writer's thread.


def write(
    worker: str, rows: Mapping[str, list[dict[str, Any]]], gone: Iterable[str]
) -> set[tuple[str, str]]:
    """Write the rows and take away those of teams that have no calls here now.

    Returns team and id of the calls that are wished to end, in whatever worker they run.
    """
    now = connections[ALIAS].ops.adapt_datetimefield_value(datetime.now(UTC))
    told = [(worker, slug, json.dumps(calls), now) for slug, calls in sorted(rows.items())]
    with transaction.atomic(using=ALIAS), connections[ALIAS].cursor() as cursor:
        cursor.executemany(_WRITE, told)
        cursor.executemany(_FORGET, [(worker, slug) for slug in sorted(gone)])
        cursor.execute(_WISHED)
        return set(cursor.fetchall())


_RUNNING = Running._meta.db_table
_WISHES = EndWish._meta.db_table
_WRITE = f"""
INSERT INTO {_RUNNING} (worker, team_slug, calls, written_at) VALUES (%s, %s, %s, %s)
ON CONFLICT (team_slug, worker) DO UPDATE
SET calls = excluded.calls, written_at = excluded.written_at
"""  # noqa: S608 - our own names
_FORGET = f"DELETE FROM {_RUNNING} WHERE worker = %s AND team_slug = %s"  # noqa: S608 - our own names
_WISHED = f"SELECT team_slug, call_id FROM {_WISHES}"  # noqa: S608 - our own names

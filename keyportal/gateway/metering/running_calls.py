"""Writes the calls in flight to the database for the portal, and ends those that an admin ends.

Once a second each worker writes one row for each team with calls in flight, whatever their number.
Calls that are over within a second are never written.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from django.db import connections, transaction

from keyportal.database.clock import NOW
from keyportal.gateway.calls import ActiveCalls, Call
from keyportal.gateway.errors import EndedByAdmin
from keyportal.gateway.metering.writer import ALIAS, Writer
from keyportal.usage.models import EndRequest, RunningCalls

REPORT_SECONDS = 1.0

CallsByTeam = dict[str, list[dict[str, Any]]]
"""The fields of each call, by the slug of its team."""


class RunningCallsReporter:
    """One per worker. Every method runs in its event loop."""

    def __init__(self, worker: str, writer: Writer, active_calls: ActiveCalls) -> None:
        self._worker = worker
        self._writer = writer
        self._active_calls = active_calls
        self._written_teams: set[str] = set()

    async def report_forever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self.report()

    async def report(self) -> None:
        """Write the calls of this worker, and end those that an admin wants to end."""
        calls_by_team = _calls_by_team(self._active_calls.running_for(REPORT_SECONDS))
        if not calls_by_team and not self._written_teams:
            return
        idle_teams = self._written_teams - calls_by_team.keys()
        calls_to_end = await self._writer.run(
            partial(write, self._worker, calls_by_team, idle_teams)
        )
        if calls_to_end is None:
            return
        self._written_teams = set(calls_by_team)
        self._active_calls.end_selected(calls_to_end, EndedByAdmin)


def _calls_by_team(calls: Iterable[Call]) -> CallsByTeam:
    calls_by_team: CallsByTeam = {}
    now = time.monotonic()
    for call in calls:
        calls_by_team.setdefault(call.verdict.team_slug, []).append(
            {
                "id": call.id,
                "request_id": call.request_id,
                "public_id": call.verdict.public_id,
                "owner_id": call.verdict.owner_id,
                "model": call.model,
                "endpoint": call.endpoint,
                "seconds": now - call.began,
                "prompt": call.tokens.prompt_so_far,
                "tokens": call.tokens.tokens_so_far,
                "address": call.address,
            }
        )
    return calls_by_team


# The rest runs in the writer's thread.


def write(
    worker: str, calls_by_team: Mapping[str, list[dict[str, Any]]], idle_teams: Iterable[str]
) -> set[tuple[str, str]]:
    """Write the rows of teams with calls in this worker, and delete those of `idle_teams`.

    Returns team and id of all calls that an admin wants to end, of all workers.
    """
    upsert = _UPSERT_RUNNING_CALLS.format(now=NOW[connections[ALIAS].vendor])
    rows = [(worker, slug, json.dumps(calls)) for slug, calls in sorted(calls_by_team.items())]
    with transaction.atomic(using=ALIAS), connections[ALIAS].cursor() as cursor:
        cursor.executemany(upsert, rows)
        cursor.executemany(_DELETE_RUNNING_CALLS, [(worker, slug) for slug in sorted(idle_teams)])
        cursor.execute(_SELECT_END_REQUESTS)
        return set(cursor.fetchall())


_RUNNING_CALLS = RunningCalls._meta.db_table
_END_REQUESTS = EndRequest._meta.db_table
_UPSERT_RUNNING_CALLS = f"""
INSERT INTO {_RUNNING_CALLS} (worker, team_slug, calls, written_at)
VALUES (%s, %s, %s, {{now}})
ON CONFLICT (team_slug, worker) DO UPDATE
SET calls = excluded.calls, written_at = excluded.written_at
"""  # noqa: S608 - our own names
_DELETE_RUNNING_CALLS = f"DELETE FROM {_RUNNING_CALLS} WHERE worker = %s AND team_slug = %s"  # noqa: S608 - our own names
_SELECT_END_REQUESTS = f"SELECT team_slug, call_id FROM {_END_REQUESTS}"  # noqa: S608 - our own names

"""Writes what this worker has met of the model servers, for pages."""

import asyncio
import time
from collections.abc import Mapping
from functools import partial

from django.db.models.functions import Now

from keyportal.catalog import circuit_breaker
from keyportal.catalog.circuit_breaker import Sight
from keyportal.catalog.servers.health import BEAT_SECONDS, WorkerHealth
from keyportal.gateway.metering.writer import ALIAS, Writer

LOOK_SECONDS = 1.0


class HealthReporter:
    """One per worker. Every method runs in its event loop."""

    def __init__(self, worker: str, writer: Writer) -> None:
        self._worker = worker
        self._writer = writer
        self._written: dict[str, Sight] | None = None
        self._written_at = 0.0

    async def report_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.report()

    async def report(self) -> None:
        """Write the row if something has changed, or nothing was written for a minute."""
        sights, now = circuit_breaker.sights(), time.monotonic()
        if sights == self._written and now - self._written_at < BEAT_SECONDS:
            return
        if await self._writer.run(partial(write, self._worker, sights)):
            self._written, self._written_at = sights, now

    async def end(self) -> None:
        """Delete the row of this worker, which stops."""
        await self._writer.run(partial(delete, self._worker))


# The rest runs in the writer's thread.


def write(worker: str, sights: Mapping[str, Sight]) -> bool:
    now = time.monotonic()
    servers = {
        fingerprint: {
            "failing_for": None if sight.failing_since is None else now - sight.failing_since,
            "last_failure": sight.last_failure,
            "has_answered": sight.has_answered,
            "refusals": sight.refusals,
        }
        for fingerprint, sight in sights.items()
    }
    row = WorkerHealth(worker=worker, servers=servers, written_at=Now())
    WorkerHealth.objects.using(ALIAS).bulk_create(
        [row],
        update_conflicts=True,
        update_fields=["servers", "written_at"],
        unique_fields=["worker"],
    )
    return True


def delete(worker: str) -> None:
    WorkerHealth.objects.using(ALIAS).filter(worker=worker).delete()

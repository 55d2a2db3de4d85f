"""Collects the counts of one worker, and writes them to its file once a second."""

import asyncio
from collections.abc import Sized

from django.db import connections

from keyportal.catalog import circuit_breaker
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.metering.writer import Writer
from keyportal.gateway.metrics import families
from keyportal.gateway.metrics.families import Family, Snapshot, Totals, Values
from keyportal.gateway.metrics.files import MetricsFolder
from keyportal.gateway.metrics.page_counts import PageCounts
from keyportal.gateway.metrics.request_counts import RequestCounts

PUBLISH_SECONDS = 1.0


class MetricsPublisher:
    """One per worker. Every method runs in its event loop."""

    def __init__(
        self,
        worker: str,
        folder: MetricsFolder,
        requests: RequestCounts,
        pages: PageCounts,
        admission: Admission,
        active_calls: Sized,
        writer: Writer,
    ) -> None:
        self._worker = worker
        self._folder = folder
        self._requests = requests
        self._pages = pages
        self._admission = admission
        self._active_calls = active_calls
        self._writer = writer

    async def publish_forever(self) -> None:
        while True:
            # In a thread: a full or slow disk must not stop the event loop.
            await asyncio.to_thread(self._folder.write, self._worker, self._collect())
            await asyncio.sleep(PUBLISH_SECONDS)

    def publish(self) -> None:
        """Write the last counts of a worker that stops."""
        self._folder.write(self._worker, self._collect())

    def _collect(self) -> Snapshot:
        admission = self._admission
        own: dict[Family, Values] = {
            families.CALLS: [float(len(self._active_calls))],
            families.WAITING: [float(admission.waiting)],
            families.BATCH_SIZE: admission.batch_sizes.values,
            families.ADMISSION_WAIT: admission.waits.values,
            families.ADMISSION_DATABASE: admission.database_times.values,
            families.USAGE_WRITE: self._writer.times.values,
            families.USAGE_WRITE_FAILURES: [float(self._writer.failures)],
        }
        snapshot: Snapshot = {family.name: [((), values)] for family, values in own.items()}
        counted = self._requests.collect() | self._pages.collect()
        return snapshot | counted | _upstreams() | _pool()


def _upstreams() -> Snapshot:
    """Two servers can have the same name for a moment: one as it was before a change. Those of
    teams are counted together.
    """
    totals = Totals()
    for name, is_open, calls in circuit_breaker.states():
        totals.add({families.CIRCUIT_OPEN.name: [((name,), [float(is_open)])]})
        totals.add({families.UPSTREAM_CALLS.name: [((name,), [float(calls)])]})
    failures = circuit_breaker.failure_counts.items()
    return totals.snapshot() | {
        families.UPSTREAM_FAILURES.name: [(labels, [float(count)]) for labels, count in failures]
    }


def _pool() -> Snapshot:
    """What the pool of PostgreSQL's connections says of itself. SQLite has none."""
    pool = getattr(connections["default"], "pool", None)
    if pool is None:
        return {}
    stats = pool.get_stats()
    size, idle = stats.get("pool_size", 0), stats.get("pool_available", 0)
    return {
        families.POOL_CONNECTIONS.name: [
            (("used",), [float(size - idle)]),
            (("idle",), [float(idle)]),
        ],
        **_single(families.POOL_WAIT, stats.get("requests_wait_ms", 0) / 1000),
        **_single(families.POOL_WAITS, stats.get("requests_queued", 0)),
        **_single(families.POOL_FAILURES, stats.get("requests_errors", 0)),
    }


def _single(family: Family, value: float) -> Snapshot:
    return {family.name: [((), [float(value)])]}

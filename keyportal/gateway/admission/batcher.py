"""Admission: asks the database whether keys are valid, for many requests at once.

Other gateways cache the verdict on a key, because one query for each request is slow. We never
cache one; we query for many requests together, like a database's group commit. While one batch is
being read, new requests are collected for the next. So a verdict is always read after its request
has arrived, and every worker on every host refuses a deleted key from the moment its deletion
commits. The cost of one request falls as the load grows.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from keyportal.catalog.snapshot import Snapshot
from keyportal.gateway.admission.batch import Admitted, Batch, BatchResult, Outcome, process
from keyportal.gateway.admission.database import ALIAS, close
from keyportal.gateway.admission.limiter import Locked, RateLimiter, Usage
from keyportal.gateway.admission.limits import Buckets
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.errors import DatabaseUnavailable, GatewayError, Overloaded
from keyportal.gateway.metrics.families import (
    ADMISSION_DATABASE,
    ADMISSION_WAIT,
    BATCH_SIZE,
    Histogram,
)
from keyportal.gateway.session_watch import SessionWatch

VERDICT_SECONDS = 2.0
MAX_WAITING = 5000
RETRY_SECONDS = 1.0
COLLECT_SECONDS = 0.002
CHECK_LOCKS_SECONDS = 0.1

logger = logging.getLogger(__name__)


class PendingRequest(NamedTuple):
    """One request that waits for its verdict."""

    digest: bytes
    is_counted: bool
    address: str | None
    """The client's address; None: only the key is judged."""
    takes_slot: bool
    """Whether it counts against the limit of parallel requests until it is completed."""
    deadline: float
    """When it fails with `DatabaseUnavailable`, on the clock of the event loop."""
    future: "asyncio.Future[Admitted | None]"


class PendingUsage(NamedTuple):
    """The usage of one completed call; the future is done when it has been written."""

    usage: Usage
    future: "asyncio.Future[None]"


class Admission:
    """Collects requests into batches. One per worker; every method runs in its event loop."""

    def __init__(self, worker: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        # `get_running_loop` costs a system call for each request.
        self._own_loop = loop
        self.catalog = Snapshot.empty()
        self._limiter = RateLimiter(worker)
        self._waiting: list[PendingRequest] = []
        self._in_batch: list[PendingRequest] = []
        # They count in a window that another transaction has locked.
        self._locked_out: list[PendingRequest] = []
        self._usages: list[PendingUsage] = []
        self._is_batch_running = False
        self._is_batch_scheduled = False
        self._is_database_down = False
        self._has_timer = False
        self._has_lock_timer = False
        self._is_lock_check_due = False
        # One thread, so one connection, which is opened in that thread after the fork.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="admission")
        self.session_watch = SessionWatch(ALIAS, VERDICT_SECONDS)
        self.batch_sizes = Histogram(BATCH_SIZE.bounds)
        self.waits = Histogram(ADMISSION_WAIT.bounds)
        self.database_times = Histogram(ADMISSION_DATABASE.bounds)

    @property
    def waiting(self) -> int:
        """How many requests have no verdict yet."""
        return len(self._waiting) + len(self._in_batch) + len(self._locked_out)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._own_loop or asyncio.get_running_loop()

    async def judge(self, digest: bytes) -> Verdict | None:
        """Return the verdict on the key with this SHA-256 digest; None if it is not valid.

        It is read after this call. Raises `DatabaseUnavailable` if there is none within
        VERDICT_SECONDS: without a verdict no request passes. Raises `Overloaded` if too many wait.
        """
        admitted = await self.admit(digest, None, is_counted=False)
        return admitted and admitted.verdict

    async def admit(
        self, digest: bytes, address: str | None, *, is_counted: bool, takes_slot: bool = True
    ) -> Admitted | None:
        """Judge a request from this address, and count it against the limits of key and team.

        A request that takes no slot is complete with its verdict: it doesn't count against the
        limit of parallel requests, and needs no call of `complete`.

        Raises what `judge` raises, and `AddressNotAllowed`, `RateLimitExceeded` or
        `InsufficientQuota`. A refused request is not counted.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded
        loop = self.loop
        future: asyncio.Future[Admitted | None] = loop.create_future()
        deadline = loop.time() + VERDICT_SECONDS
        self._waiting.append(
            PendingRequest(digest, is_counted, address, takes_slot, deadline, future)
        )
        if not self._has_timer:
            self._start_timer(deadline)
        self._schedule_batch()
        try:
            return await future
        except asyncio.CancelledError:
            # The client disconnected after its request was admitted.
            if future.done() and not future.cancelled() and not future.exception():
                self._release(future.result())
            raise

    def complete(self, buckets: Buckets, tokens: int) -> "asyncio.Future[None]":
        """Count the tokens of an admitted call, and release its slot.

        This joins the next batch, which starts at once if none is running. The future is done when
        that batch has committed, or has failed; then the usage is written again later.
        """
        future: asyncio.Future[None] = self.loop.create_future()
        self._usages.append(PendingUsage(Usage(buckets, tokens), future))
        self._schedule_batch()
        return future

    def _release(self, outcome: Outcome) -> None:
        """Release the slot of a request that was admitted after its client disconnected."""
        if isinstance(outcome, Admitted) and outcome.allowance is not None:
            self.complete(outcome.verdict.buckets, 0)

    def _start_timer(self, deadline: float) -> None:
        """One timer for all requests, whose deadlines are in order.

        A timer for each request would cost a twentieth of a verdict.
        """
        self._has_timer = True
        self.loop.call_at(deadline, self._expire_requests)

    def _expire_requests(self) -> None:
        """Fail the requests whose deadline has passed, and start the timer for the next one."""
        self._has_timer = False
        now = self.loop.time()
        for request in (*self._locked_out, *self._in_batch, *self._waiting):
            if request.deadline > now:
                self._start_timer(request.deadline)
                break
            _fail(request.future)

    async def close(self) -> None:
        """Write the usage of all completed calls, if that takes at most VERDICT_SECONDS."""
        with suppress(TimeoutError):
            # Joins the batch after all others.
            await asyncio.wait_for(self.complete((), 0), VERDICT_SECONDS)
        await self.loop.run_in_executor(self._thread, self.session_watch.run, close)
        self._thread.shutdown(wait=False)

    def _schedule_batch(self) -> None:
        """Start the next batch after all callbacks that are ready now: they may add to it."""
        if not (self._is_batch_running or self._is_batch_scheduled):
            self._is_batch_scheduled = True
            loop = self.loop
            loop.call_soon(
                self._start_batch_when_idle, self._count_pending(), loop.time() + COLLECT_SECONDS
            )

    def _count_pending(self) -> int:
        return len(self._waiting) + len(self._usages)

    def _start_batch_when_idle(self, count_before: int, latest: float) -> None:
        """Start the batch when an iteration of the event loop adds nothing, or at `latest`.

        A batch costs nearly the same for one request as for thirty. A single request doesn't wait.
        """
        count, loop = self._count_pending(), self.loop
        if count > count_before and loop.time() < latest:
            loop.call_soon(self._start_batch_when_idle, count, latest)
        else:
            self._start_batch()

    def _start_batch(self) -> None:
        """Start the next batch, if there is one and none is running."""
        self._is_batch_scheduled = False
        if self._is_batch_running or not (self._waiting or self._usages or self._is_lock_check_due):
            return
        # Requests that have failed, or whose client disconnected, are neither judged nor counted.
        requests = [request for request in self._waiting if not request.future.done()]
        self._waiting = []
        if not (requests or self._usages or self._is_lock_check_due):
            return
        self._is_batch_running = True
        self._in_batch = requests
        usages, self._usages = self._usages, []
        batch = Batch(
            [request[:4] for request in requests],
            [pending.usage for pending in usages],
            self._is_lock_check_due,
        )
        self._is_lock_check_due = False
        running = self.loop.run_in_executor(
            self._thread, self.session_watch.run, process, batch, self.catalog, self._limiter
        )
        running.add_done_callback(partial(self._finish_batch, self.loop.time(), requests, usages))

    def _finish_batch(
        self,
        began: float,
        requests: list[PendingRequest],
        usages: list[PendingUsage],
        finished: "asyncio.Future[BatchResult]",
    ) -> None:
        """Resolve all futures of the batch, even if it failed, and start the next."""
        self._is_batch_running = False
        self._in_batch = []
        self._measure_batch(began, requests)
        try:
            outcomes, self.catalog, unwritten, is_window_free = finished.result()
        except Exception as error:
            self._log_availability(error)
            for request in requests:
                _fail(request.future)
            self._retry_later([pending.usage for pending in usages])
        else:
            self._log_availability(None)
            for request, outcome in zip(requests, outcomes, strict=True):
                self._resolve(request, outcome)
            self._retry_later(unwritten)
            if is_window_free:
                # They are older than those that wait, so the deadlines are in order.
                self._waiting[:0] = self._locked_out
                self._locked_out = []
        if self._limiter.locked and not self._has_lock_timer:
            self._has_lock_timer = True
            self.loop.call_later(CHECK_LOCKS_SECONDS, self._check_locks)
        for pending in usages:
            if not pending.future.done():
                pending.future.set_result(None)
        self._schedule_batch()

    def _measure_batch(self, began: float, requests: list[PendingRequest]) -> None:
        now = self.loop.time()
        self.database_times.observe(now - began)
        if requests:
            self.batch_sizes.observe(len(requests))
            self.waits.observe(now - (requests[0].deadline - VERDICT_SECONDS))

    def _resolve(self, request: PendingRequest, outcome: Outcome) -> None:
        future = request.future
        if future.done():
            self._release(outcome)  # It failed or was cancelled while the batch was running.
        elif isinstance(outcome, GatewayError):
            future.set_exception(outcome)
        elif isinstance(outcome, Locked):
            self._lock_out(request)
        else:
            future.set_result(outcome)

    def _lock_out(self, request: PendingRequest) -> None:
        """Let this request wait until the windows in which it counts may be free.

        It is judged again then. Other requests neither wait nor are refused because of it.
        """
        if len(self._locked_out) < MAX_WAITING:
            self._locked_out.append(request)
        else:
            _fail(request.future)

    def _check_locks(self) -> None:
        """Let the next batch look for windows that are free again."""
        self._has_lock_timer = False
        self._is_lock_check_due = True
        self._locked_out = [pending for pending in self._locked_out if not pending.future.done()]
        self._schedule_batch()

    def _retry_later(self, usages: Sequence[Usage]) -> None:
        """Write this usage later; its calls don't wait for that."""
        if usages:
            self.loop.call_later(RETRY_SECONDS, self._retry, usages)

    def _retry(self, usages: Sequence[Usage]) -> None:
        for usage in usages:
            self.complete(*usage)

    def _log_availability(self, error: Exception | None) -> None:
        """Log when the database goes down and when it is back, not for every batch in between."""
        if error and not self._is_database_down:
            logger.error("No verdicts, so no calls: %s: %s", type(error).__name__, error)
        elif self._is_database_down and not error:
            logger.warning("Verdicts are back.")
        self._is_database_down = error is not None


def _fail(future: "asyncio.Future[Admitted | None]") -> None:
    if not future.done():
        future.set_exception(DatabaseUnavailable())

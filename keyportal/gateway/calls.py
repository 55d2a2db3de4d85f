"""Active calls: from the verdict to the last byte, including the time to read the body."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Container
from types import TracebackType

from django.conf import settings

from keyportal.gateway.admission.batch import Admitted
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.errors import (
    ClientDisconnected,
    GatewayError,
    InvalidKey,
    Overloaded,
    SlowBody,
    Unavailable,
    UpstreamFailed,
)
from keyportal.gateway.metering.attempts import Attempt
from keyportal.gateway.metering.token_counter import TokenCounter
from keyportal.gateway.relay.body_budget import Reservation
from keyportal.gateway.relay.sse import KeepAlive
from keyportal.http.types import Scope

RECHECK_SECONDS = 1.0
KEEP_ALIVE_SWEEP_SECONDS = 1.0
STALLED_SECONDS = 300.0
RECHECK_BATCH = 1000  # Far below the number of requests that may wait for admission.

logger = logging.getLogger(__name__)


class Call:
    """One call and its outcome. `end` ends it from outside its task."""

    __slots__ = (
        "_admission",
        "_id",
        "_is_completed",
        "_task",
        "address",
        "allowance",
        "attempts",
        "began",
        "body_deadline",
        "digest",
        "ended_by",
        "endpoint",
        "error",
        "first_byte",
        "is_all_sent",
        "is_delivered",
        "is_kept_alive",
        "is_served",
        "keep_alive",
        "model",
        "model_headers",
        "request_id",
        "reservation",
        "sending_since",
        "status",
        "tokens",
        "user_agent",
        "verdict",
    )

    def __init__(
        self, digest: bytes, admitted: Admitted, scope: Scope, admission: Admission
    ) -> None:
        self.digest = digest
        self.verdict, self.allowance = admitted
        self._id = ""
        self.request_id: str = scope["keyportal.request_id"]
        client = scope.get("client")
        self.address: str | None = client[0] if client else None
        self.user_agent: bytes = dict(scope["headers"]).get(b"user-agent", b"")
        """The User-Agent header, undecoded."""
        self._admission = admission
        self._is_completed = False
        self.endpoint = ""
        """The endpoint's path without `/v1`; empty until it is known."""
        self.model = ""
        """The name of the served model; empty until it is known."""
        self.model_headers: tuple[tuple[bytes, bytes], ...] = ()
        """What the response says of the model: that it is going away."""
        self.attempts: list[Attempt] = []
        """The routes that were tried, in turn."""
        self.error: GatewayError | None = None
        """The error that ended the call, which is what the caller got."""
        self.status = 0
        """The status of the response, or of the error that ended it; 0 until it is known."""
        self.is_served = False
        """Whether a response other than an error has started."""
        self.is_delivered = False
        """Whether the response was sent up to what its client takes for its end."""
        self.tokens = TokenCounter()
        self.began = time.monotonic()
        self.first_byte: float | None = None
        """When the body of the response started, on the same clock."""
        self.sending_since = 0.0
        """Since when a part waits until its client reads it, on the same clock; 0 if none waits."""
        self.body_deadline = 0.0
        """When the request's body must have arrived, on the same clock; 0 if it is not awaited."""
        self.reservation: Reservation | None = None
        """The memory of the request's body, or its room on disk, if it is large."""
        self.is_kept_alive = False
        """Whether its caller may get comments while its stream is silent."""
        self.is_all_sent: Callable[[], bool] | None = scope.get("keyportal.is_all_sent")
        """Says whether the network has taken all bytes that were sent. Only our server has it."""
        self.keep_alive: KeepAlive | None = None
        """While an event stream is being sent, between two events."""
        self.ended_by: GatewayError | None = None
        self._task = asyncio.current_task(admission.loop)

    @property
    def id(self) -> str:
        """An id that identifies the call; made when it is first read, because few calls need one.

        The request id can't be used: a client may choose it, and give two calls the same. Ending a
        call by that id would also end the other.
        """
        self._id = self._id or f"call_{random.getrandbits(96):024x}"
        return self._id

    def end(self, reason: GatewayError) -> None:
        """Cancel what the call is waiting for, and raise `reason` in its task."""
        if self._task is not None and self.ended_by is None:
            self.ended_by = reason
            self._task.cancel()

    def client_disconnected(self) -> None:
        """End the call, so that the model server stops generating."""
        self.end(ClientDisconnected())

    def record_error(self, error: BaseException) -> None:
        """Set the status to that of the error that ended the call.

        A client that disconnects after the end of its response has not failed.
        """
        if self.is_delivered:
            return
        if isinstance(error, GatewayError):
            self.status = error.status
            self.error = error
        else:
            self.status = 499 if isinstance(error, asyncio.CancelledError) else 500

    async def complete(self) -> None:
        """Count what was used, and release the slot of the parallel requests; only once.

        If the call has a slot, this waits until that is written, before the last byte is sent. So a
        client that calls again afterwards is not refused because of its own previous call.
        """
        if self._is_completed:
            return
        self._is_completed = True
        self.tokens.close(is_served=self.is_served)
        if self.tokens.has_error_event:
            self.status = UpstreamFailed.status
        if self.allowance is None:
            return
        buckets = self.verdict.buckets
        has_slot = any(bucket.parallel is not None for bucket in buckets)
        if has_slot or any(bucket.tokens is not None for bucket in buckets):
            written = self._admission.complete(buckets, self.tokens.total)
            if has_slot:
                await asyncio.shield(written)

    def detach(self) -> None:
        """Forget the task, which belongs to the connection and will run its next request."""
        self._task = None


class TrackedCall:
    """A call that is active until the end of the `with` block.

    `contextlib.contextmanager` would cost two microseconds of each call.
    """

    __slots__ = ("_call", "_calls")

    def __init__(self, calls: set[Call], call: Call) -> None:
        self._calls = calls
        self._call = call

    def __enter__(self) -> Call:
        """Raises `Overloaded` if too many calls are active."""
        if len(self._calls) >= settings.MAX_RUNNING_CALLS:
            raise Overloaded
        self._calls.add(self._call)
        return self._call

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raises the error that ended the call."""
        call = self._call
        self._calls.discard(call)
        call.detach()
        # If the server has cancelled the task too, the server must see the cancellation.
        if (
            error is not None
            and isinstance(error, asyncio.CancelledError)
            and call.ended_by is not None
            and not asyncio.current_task().uncancel()  # type: ignore[union-attr]  # we run in a task
        ):
            raise call.ended_by from None


class ActiveCalls:
    """The active calls of this worker."""

    def __init__(self) -> None:
        self._calls: set[Call] = set()

    def __len__(self) -> int:
        return len(self._calls)

    def track(self, call: Call) -> "TrackedCall":
        """Register the call while it runs, in a `with` block."""
        return TrackedCall(self._calls, call)

    def end_all(self, reason: type[GatewayError]) -> None:
        for call in tuple(self._calls):
            call.end(reason())

    def end_selected(self, ids: Container[tuple[str, str]], reason: type[GatewayError]) -> None:
        """End these calls, which are given as pairs of a team's slug and a call's id."""
        for call in tuple(self._calls):
            if (call.verdict.team_slug, call.id) in ids:
                call.end(reason())

    def running_for(self, seconds: float) -> list[Call]:
        """Return the calls that have run for longer than this."""
        before = time.monotonic() - seconds
        return [call for call in self._calls if call.began < before]

    async def keep_alive_forever(self) -> None:
        """Once a second, send a comment on the streams that are silent.

        One sweep costs less than a timer for each stream. The setting 0 turns it off.
        """
        while seconds := settings.STREAM_KEEPALIVE_SECONDS:
            await asyncio.sleep(KEEP_ALIVE_SWEEP_SECONDS)
            await self._keep_alive(time.monotonic() - seconds)

    async def _keep_alive(self, before: float) -> None:
        for call in tuple(self._calls):
            if call.keep_alive is None:
                continue
            try:
                await call.keep_alive.send_if_silent(before)
            except Exception:
                # One stream must not end this for all others.
                logger.exception("A comment could not be sent.")
                call.keep_alive = None

    async def recheck_forever(self, admission: Admission) -> None:
        """Every RECHECK_SECONDS, end the calls whose keys are no longer valid."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            self._end_stalled()
            try:
                await self._recheck(admission)
            except Unavailable:
                # An active call goes on; no new call is admitted without the database.
                logger.warning("The keys of active calls could not be checked: no database.")

    def _end_stalled(self) -> None:
        """End the calls whose client reads nothing for STALLED_SECONDS, or whose body is late.

        Attack: a client that sends nothing more of its body would hold its call, and the file of
        its upload, for as long as it keeps the connection open.
        """
        now = time.monotonic()
        for call in tuple(self._calls):
            if 0 < call.sending_since < now - STALLED_SECONDS:
                call.client_disconnected()
            elif 0 < call.body_deadline < now:
                call.end(SlowBody())

    async def _recheck(self, admission: Admission) -> None:
        digests = list({call.digest for call in self._calls})
        for start in range(0, len(digests), RECHECK_BATCH):
            part = digests[start : start + RECHECK_BATCH]
            verdicts = await asyncio.gather(*map(admission.judge, part))
            refused = {
                digest for digest, verdict in zip(part, verdicts, strict=True) if not verdict
            }
            for call in tuple(self._calls):
                if call.digest in refused:
                    call.end(InvalidKey())

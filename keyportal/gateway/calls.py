"""Calls in flight: from the verdict to the last byte, the body on its way in included."""

import asyncio
import logging
import random
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager

from django.conf import settings

from keyportal.gateway.admission.batch import Admitted
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.errors import ClientGone, GatewayError, InvalidKey, Overloaded, Unavailable
from keyportal.gateway.metering.tally import TokenCounter
from keyportal.http.types import Scope

REJUDGE_SECONDS = 1.0
STUCK_SECONDS = 300.0
REJUDGE_AT_ONCE = 1000  # Stays well below what admission lets wait.

logger = logging.getLogger(__name__)


class Call:
    """One call: what it is, what became of it, and the one way to end it from outside: `end`."""

    __slots__ = (
        "_admission",
        "_id",
        "_is_settled",
        "_task",
        "address",
        "agent",
        "allowance",
        "began",
        "digest",
        "ended_by",
        "endpoint",
        "first_byte",
        "is_served",
        "model",
        "request_id",
        "sends_since",
        "status",
        "tally",
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
        self.agent = _agent(scope)
        """As it came over the wire, unread."""
        self._admission = admission
        self._is_settled = False
        self.endpoint = ""
        """Where the call went, without `/v1`; empty until that is known."""
        self.model = ""
        """The served name; empty until that is known."""
        self.status = 0
        """What it was answered, or what ended it; 0 until that is known."""
        self.is_served = False
        """An answer has begun, and it is no refusal."""
        self.tally = TokenCounter()
        self.began = time.monotonic()
        self.first_byte: float | None = None
        """When the answer's body began, on the same clock."""
        self.sends_since = 0.0
        """Since when a part waits for its client to take it, on the same clock; 0 for none."""
        self.ended_by: GatewayError | None = None
        self._task = asyncio.current_task(admission.loop)

    @property
    def id(self) -> str:
        """Told apart, not guessed; made for the few that are asked for it.

        The request's id may be the caller's own choice, and then another call's too: ending a
        call by that would end somebody else's.
        """
        self._id = self._id or f"call_{random.getrandbits(96):024x}"
        return self._id

    def end(self, reason: GatewayError) -> None:
        """Break off whatever the call is waiting for; there, `reason` is raised."""
        if self._task is not None and self.ended_by is None:
            self.ended_by = reason
            self._task.cancel()

    def leave(self) -> None:
        """The client has gone away, so the model server shall stop generating."""
        self.end(ClientGone())

    def note(self, error: BaseException) -> None:
        """The call ended like this, whether its answer had begun or not."""
        if isinstance(error, GatewayError):
            self.status = error.status
        else:
            self.status = 499 if isinstance(error, asyncio.CancelledError) else 500

    async def settle(self) -> None:
        """Count what was used, and give back the call's place among the running; only once.

        This is waited for before the last byte goes out, where a place was held: so a client that
        calls one after the other never meets its own ghost.
        """
        if self._is_settled:
            return
        self._is_settled = True
        self.tally.close(is_served=self.is_served)
        if self.allowance is None:
            return
        accounts = self.verdict.accounts
        holds_place = any(account.parallel is not None for account in accounts)
        if holds_place or any(account.tokens is not None for account in accounts):
            written = self._admission.settle(accounts, self.tally.total)
            if holds_place:
                await asyncio.shield(written)

    def over(self) -> None:
        # The task belongs to the connection, whose next request is none of this call's business.
        self._task = None


def _agent(scope: Scope) -> bytes:
    return next((value for name, value in scope["headers"] if name == b"user-agent"), b"")


class ActiveCalls:
    """All calls of this worker."""

    def __init__(self) -> None:
        self._calls: set[Call] = set()

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def of(self, call: Call) -> Iterator[Call]:
        """Count the call in while it runs. Raises `Overloaded`, or what the call was ended by."""
        if len(self._calls) >= settings.MAX_CALLS:
            raise Overloaded
        self._calls.add(call)
        try:
            yield call
        except asyncio.CancelledError:
            # The server may have cancelled too, and that is for the server to see.
            if call.ended_by is None or asyncio.current_task().uncancel():  # type: ignore[union-attr]  # we run in a task
                raise
            raise call.ended_by from None
        finally:
            self._calls.discard(call)
            call.over()

    def end_all(self, reason: type[GatewayError]) -> None:
        for call in tuple(self._calls):
            call.end(reason())

    def end_these(self, wished: Container[tuple[str, str]], reason: type[GatewayError]) -> None:
        """End the calls of these teams with these ids."""
        for call in tuple(self._calls):
            if (call.verdict.team_slug, call.id) in wished:
                call.end(reason())

    def lasting(self, seconds: float) -> list[Call]:
        """Those that have run for so long by now."""
        before = time.monotonic() - seconds
        return [call for call in self._calls if call.began < before]

    async def rejudge_forever(self, admission: Admission) -> None:
        """Once a second, end the calls whose keys would no longer be let in."""
        while True:
            await asyncio.sleep(REJUDGE_SECONDS)
            self._end_stuck()
            try:
                await self._rejudge(admission)
            except Unavailable:
                # A call that was let in goes on; no new one gets in meanwhile.
                logger.warning("Calls in flight could not be judged again: no database.")

    def _end_stuck(self) -> None:
        """Whoever reads nothing for so long has gone, or holds a place that others need."""
        before = time.monotonic() - STUCK_SECONDS
        for call in tuple(self._calls):
            if 0 < call.sends_since < before:
                call.leave()

    async def _rejudge(self, admission: Admission) -> None:
        digests = list({call.digest for call in self._calls})
        for start in range(0, len(digests), REJUDGE_AT_ONCE):
            some = digests[start : start + REJUDGE_AT_ONCE]
            verdicts = await asyncio.gather(*map(admission.judge, some))
            refused = {
                digest for digest, verdict in zip(some, verdicts, strict=True) if not verdict
            }
            for call in tuple(self._calls):
                if call.digest in refused:
                    call.end(InvalidKey())

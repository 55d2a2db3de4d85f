"""Calls in flight: from the verdict to the last byte, the body on its way in included."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from keyportal.gateway.admission import Admission, Verdict
from keyportal.gateway.errors import GatewayError, InvalidKey, Overloaded, Unavailable
from keyportal.gateway.usage import Tally

REJUDGE_SECONDS = 1.0
REJUDGE_AT_ONCE = 1000  # Stays well below what admission lets wait.

logger = logging.getLogger(__name__)


class Call:
    """One call: what it is, what became of it, and the one way to end it from outside: `end`."""

    __slots__ = (
        "_task",
        "began",
        "digest",
        "ended_by",
        "endpoint",
        "first_byte",
        "model",
        "status",
        "tally",
        "verdict",
    )

    def __init__(self, digest: bytes, verdict: Verdict) -> None:
        self.digest = digest
        self.verdict = verdict
        self.endpoint = ""
        """Where the call went, without `/v1`; empty until that is known."""
        self.model = ""
        """The served name; empty until that is known."""
        self.status = 0
        """What it was answered, or what ended it; 0 until that is known."""
        self.tally = Tally()
        self.began = time.monotonic()
        self.first_byte: float | None = None
        """When the answer's body began, on the same clock."""
        self.ended_by: GatewayError | None = None
        self._task = asyncio.current_task()

    def end(self, reason: GatewayError) -> None:
        """Break off whatever the call is waiting for; there, `reason` is raised."""
        if self._task is not None and self.ended_by is None:
            self.ended_by = reason
            self._task.cancel()

    def over(self) -> None:
        # The task belongs to the connection, whose next request is none of this call's business.
        self._task = None


class Flight:
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

    async def rejudge_forever(self, admission: Admission) -> None:
        """Once a second, end the calls whose keys would no longer be let in."""
        while True:
            await asyncio.sleep(REJUDGE_SECONDS)
            try:
                await self._rejudge(admission)
            except Unavailable:
                # A call that was let in goes on; no new one gets in meanwhile.
                logger.warning("Calls in flight could not be judged again: no database.")

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

"""Admission: may this key pass? Asked of the database for many requests at once.

Others cache the verdict on a key, because one query a request is slow. We never cache one: we
ask together, as a database groups commits. While one batch is being read, newcomers gather into
the next. So a verdict is always read after its request arrived, a deleted key is refused from
the moment its deletion commits, on every worker and host, and the cost of asking shrinks as the
load grows.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from keyportal.catalog.snapshot import Snapshot
from keyportal.gateway.admission.batch import Admitted, Batch, Outcome, work
from keyportal.gateway.admission.database import close
from keyportal.gateway.admission.limiter import RateLimiter, Spent
from keyportal.gateway.admission.limits import Buckets
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.errors import DatabaseUnavailable, GatewayError, Overloaded

VERDICT_SECONDS = 2.0
MAX_WAITING = 5000
RETRY_SECONDS = 1.0
GATHER_SECONDS = 0.002

logger = logging.getLogger(__name__)


class Asking(NamedTuple):
    """One request that waits for its verdict."""

    digest: bytes
    is_counted: bool
    address: str | None
    """Where it comes from; None: the key is judged alone."""
    holds_place: bool
    """It runs until it is settled, and is one of those that run at one time."""
    deadline: float
    """When it is given up, on the clock of the event loop."""
    answer: "asyncio.Future[Admitted | None]"


class Ending(NamedTuple):
    """One call that is over; `done` when what it used and held is written."""

    spent: Spent
    done: "asyncio.Future[None]"


class Admission:
    """Gathers requests into batches. One per worker; every method runs in its event loop."""

    def __init__(self, worker: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        # Asking for the running loop is a call to the system, for each request.
        self._own_loop = loop
        self.catalog = Snapshot.empty()
        self._ledger = RateLimiter(worker)
        self._waiting: list[Asking] = []
        self._being_judged: list[Asking] = []
        self._ending: list[Ending] = []
        self._is_reading = False
        self._will_begin = False
        self._is_down = False
        self._has_timer = False
        # One thread, so one connection, opened in that thread after the fork.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="admission")

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._own_loop or asyncio.get_running_loop()

    async def judge(self, digest: bytes) -> Verdict | None:
        """The verdict on the key with this SHA-256 digest, read after this call; None refuses.

        Raises `DatabaseUnavailable` when there is none within two seconds: no verdict is never
        a good one. Raises `Overloaded` when too many wait already.
        """
        admitted = await self.admit(digest, None, is_counted=False)
        return admitted and admitted.verdict

    async def admit(
        self, digest: bytes, address: str | None, *, is_counted: bool, holds_place: bool = True
    ) -> Admitted | None:
        """The same of a request from this address; one that is counted is so against the limits
        of its key and team. One that holds no place is over with its verdict: it is none of those
        that run at one time, and there is nothing to settle.

        Raises `AddressNotAllowed`, `RateLimitExceeded` or `InsufficientQuota` too, and then has
        counted nothing: who may not call uses nothing up.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded
        loop = self.loop
        answer: asyncio.Future[Admitted | None] = loop.create_future()
        deadline = loop.time() + VERDICT_SECONDS
        self._waiting.append(Asking(digest, is_counted, address, holds_place, deadline, answer))
        if not self._has_timer:
            self._time_out_at(deadline)
        self._begin_soon()
        try:
            return await answer
        except asyncio.CancelledError:
            # The caller went away while the answer was on its way to it.
            if answer.done() and not answer.cancelled() and not answer.exception():
                self._give_back(answer.result())
            raise

    def settle(self, accounts: Buckets, tokens: int) -> "asyncio.Future[None]":
        """Count what an admitted call has used, and give its place among the running back.

        Joins the next batch, which begins at once where none is being read. The future is done
        when that has committed; when it can't be for now, it is done too, and tried again.
        """
        done: asyncio.Future[None] = self.loop.create_future()
        self._ending.append(Ending(Spent(accounts, tokens), done))
        self._begin_soon()
        return done

    def _give_back(self, outcome: Outcome) -> None:
        """What was granted to somebody who is no longer there holds no place."""
        if isinstance(outcome, Admitted) and outcome.allowance is not None:
            self.settle(outcome.verdict.accounts, 0)

    def _time_out_at(self, moment: float) -> None:
        """One timer for all, whose deadlines follow one another: one a request would be a
        twentieth of what a verdict costs."""
        self._has_timer = True
        self.loop.call_at(moment, self._time_out)

    def _time_out(self) -> None:
        """Give up whoever has waited for too long, and look again when the next one has."""
        self._has_timer = False
        now = self.loop.time()
        for one in (*self._being_judged, *self._waiting):
            if one.deadline > now:
                self._time_out_at(one.deadline)
                break
            _give_up(one.answer)

    async def close(self) -> None:
        """Let all that has ended be settled, if that can be done soon."""
        with suppress(TimeoutError):
            # Joins the batch after all others.
            await asyncio.wait_for(self.settle((), 0), VERDICT_SECONDS)
        self._thread.submit(close)
        self._thread.shutdown(wait=False)

    def _begin_soon(self) -> None:
        """Read the next batch when all that is ready to run has run: more of it may join."""
        if not (self._is_reading or self._will_begin):
            self._will_begin = True
            loop = self.loop
            loop.call_soon(self._begin_when_calm, self._gathered(), loop.time() + GATHER_SECONDS)

    def _gathered(self) -> int:
        return len(self._waiting) + len(self._ending)

    def _begin_when_calm(self, before: int, latest: float) -> None:
        """Wait for another turn of the loop while each brings somebody new, until then at most.

        A batch costs nearly the same for one as for thirty. Whoever is alone waits for nobody.
        """
        gathered, loop = self._gathered(), self.loop
        if gathered > before and loop.time() < latest:
            loop.call_soon(self._begin_when_calm, gathered, latest)
        else:
            self._begin()

    def _begin(self) -> None:
        """Read the next batch, if there is one, and none is being read."""
        self._will_begin = False
        if self._is_reading or not (self._waiting or self._ending):
            return
        # Whoever was given up, or went away, is neither judged nor counted.
        waiting = [one for one in self._waiting if not one.answer.done()]
        self._waiting = []
        if not (waiting or self._ending):
            return
        self._is_reading = True
        self._being_judged = waiting
        ending, self._ending = self._ending, []
        batch = Batch([one[:4] for one in waiting], [one.spent for one in ending])
        reading = self.loop.run_in_executor(self._thread, work, batch, self.catalog, self._ledger)
        reading.add_done_callback(partial(self._answer, waiting, ending))

    def _answer(
        self,
        waiting: list[Asking],
        ending: list[Ending],
        working: "asyncio.Future[tuple[list[Outcome], Snapshot]]",
    ) -> None:
        """Tell everyone in the batch, whatever it raised, and start the next."""
        self._is_reading = False
        self._being_judged = []
        try:
            outcomes, self.catalog = working.result()
        except Exception as error:
            self._note_down(error)
            for one in waiting:
                _give_up(one.answer)
            self._owe(ending)
        else:
            self._note_down(None)
            for one, outcome in zip(waiting, outcomes, strict=True):
                self._tell(one.answer, outcome)
        for ended in ending:
            if not ended.done.done():
                ended.done.set_result(None)
        self._begin_soon()

    def _tell(self, answer: "asyncio.Future[Admitted | None]", outcome: Outcome) -> None:
        if answer.done():
            self._give_back(outcome)  # Given up, or gone, while the batch was read.
        elif isinstance(outcome, GatewayError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    def _owe(self, ending: list[Ending]) -> None:
        """What could not be written now is written later; nobody waits for it any longer."""
        if ending:
            self.loop.call_later(RETRY_SECONDS, self._settle_again, [one.spent for one in ending])

    def _settle_again(self, owed: list[Spent]) -> None:
        for spent in owed:
            self.settle(*spent)

    def _note_down(self, error: Exception | None) -> None:
        """Log when the database goes and when it comes back, not every batch in between."""
        if error and not self._is_down:
            logger.error("No verdicts, so no calls: %s: %s", type(error).__name__, error)
        elif self._is_down and not error:
            logger.warning("Verdicts are back.")
        self._is_down = error is not None


def _give_up(answer: "asyncio.Future[Admitted | None]") -> None:
    if not answer.done():
        answer.set_exception(DatabaseUnavailable())

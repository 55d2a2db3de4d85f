"""Which upstream gets a call, and which is asked next when one fails before its answer begins."""

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from keyportal.catalog import circuit_breaker
from keyportal.catalog.snapshot import Target
from keyportal.gateway.errors import UpstreamFailed, UpstreamTimedOut, UpstreamUnreached
from keyportal.gateway.relay.answer import Answer


def pick(targets: Sequence[Target]) -> Target:
    """Of two drawn by weight, the one with fewer calls in flight for its weight.

    By weight alone, calls would pile up at a server that has become slow. By calls in flight
    alone, everybody would run to the one that has just come back, and weights would mean nothing
    to a gateway at rest. Of two draws, the first counts where both are equally busy. One that
    fails is left alone, unless all do.
    """
    if len(targets) == 1:
        return targets[0]
    now = time.monotonic()
    well = [
        target
        for target in targets
        if circuit_breaker.breaker_of(target.fingerprint).may_be_asked(now)
    ]
    among = well or targets
    weights = [target.weight for target in among]
    first, second = random.choices(among, weights, k=2)  # noqa: S311 - spreads load, no secret
    return second if _load(second) < _load(first) else first


def _load(target: Target) -> float:
    return circuit_breaker.breaker_of(target.fingerprint).calls / target.weight


class UpstreamAttempts:
    """One call on its way to an upstream that answers; a context that lasts until all is said.

    No two upstreams ever answer one call: the next is asked only where nothing of an answer has
    gone to the caller. The one before may have begun to work on it, though.
    """

    __slots__ = ("_answer", "_ask", "_at", "_is_trial", "_left")

    def __init__(
        self,
        targets: Sequence[Target],
        ask: Callable[[Target], Awaitable[Answer]],
    ) -> None:
        self._left = targets
        self._ask = ask
        self._at: circuit_breaker.CircuitBreaker | None = None
        self._is_trial = False
        self._answer: Answer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._answer is not None:
            self._answer.close()
        self._leave(error)

    async def answer(self) -> Answer:
        """What the first that answers says, or the last failure."""
        while True:
            target = pick(self._left)
            is_last = len(self._left) == 1
            if not is_last:
                self._left = [other for other in self._left if other is not target]
            self._arrive(target)
            try:
                answer = self._answer = await self._ask(target)
            except (UpstreamFailed, UpstreamUnreached) as error:
                if is_last:
                    raise
                self._leave(error)
                continue
            if self._is_good(answer) or is_last:
                return answer
            answer.close()
            self._leave(None)

    def _arrive(self, target: Target) -> None:
        self._at = circuit_breaker.breaker_of(target.fingerprint)
        self._is_trial = self._at.begin()

    def _is_good(self, answer: Answer) -> bool:
        """Whether it is an answer for the caller, who may have made a mistake, or a failure."""
        here = self._at
        assert here is not None  # noqa: S101 - for the type checker
        if answer.status < 500 and answer.status != 429:
            here.answered()
            return True
        here.failed(str(answer.status), _retry_after(answer))
        return False

    def _leave(self, error: BaseException | None) -> None:
        if self._at is None:
            return
        if error is not None and isinstance(error, (UpstreamFailed, UpstreamTimedOut)):
            self._at.failed(type(error).__name__)
        self._at.end(was_trial=self._is_trial)
        self._at = None


def _retry_after(answer: Answer) -> float:
    """Seconds. A date is not read: the wait is then ours to choose."""
    text = next((value for name, value in answer.headers if name == b"retry-after"), b"")
    return float(text) if text.isdigit() and len(text) < 10 else 0

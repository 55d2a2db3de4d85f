"""Which upstream gets a call, and which one is tried next if it fails before its answer begins."""

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from keyportal.catalog.circuit_breaker import CircuitBreaker, breaker_for
from keyportal.catalog.snapshot import Target
from keyportal.gateway.errors import UpstreamConnectTimeout, UpstreamFailed, UpstreamTimedOut
from keyportal.gateway.relay.answer import Answer


def choose_target(targets: Sequence[Target]) -> Target:
    """Draw two targets by weight and return the one with fewer calls in flight for its weight.

    By weight alone, calls would pile up at a server that has become slow. By calls in flight
    alone, all calls would go to a server that has just recovered, and an idle gateway would ignore
    the weights. If both are equally busy, the first one drawn is returned. Targets whose circuit
    breaker is open are left out, unless all are open.
    """
    if len(targets) == 1:
        return targets[0]
    now = time.monotonic()
    available = [
        target for target in targets if breaker_for(target.fingerprint).allows_call(now)
    ] or targets
    weights = [target.weight for target in available]
    first, second = random.choices(available, weights, k=2)  # noqa: S311 - spreads load, no secret
    return second if _load(second) < _load(first) else first


def _load(target: Target) -> float:
    return breaker_for(target.fingerprint).calls / target.weight


class UpstreamAttempts:
    """The attempts of one call; a context manager that lasts until the answer is sent.

    A caller never gets parts of two answers: another upstream is tried only if no byte of an
    answer was sent. The one that failed may have begun to work on the call, though.
    """

    __slots__ = ("_answer", "_breaker", "_is_trial", "_remaining", "_send")

    def __init__(
        self,
        targets: Sequence[Target],
        send: Callable[[Target], Awaitable[Answer]],
    ) -> None:
        self._remaining = targets
        self._send = send
        self._breaker: CircuitBreaker | None = None
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
        self._end_attempt(error)

    async def answer(self) -> Answer:
        """The first answer that is not a failure, or else the last failure.

        Raises what `send` raises for the last target. A read timeout is raised at once: the caller
        has waited for as long as a server may be silent, and the server may still be working.
        """
        while True:
            target = choose_target(self._remaining)
            is_last = len(self._remaining) == 1
            if not is_last:
                self._remaining = [other for other in self._remaining if other is not target]
            self._begin_attempt(target)
            try:
                answer = self._answer = await self._send(target)
            except (UpstreamFailed, UpstreamConnectTimeout) as error:
                if is_last:
                    raise
                self._end_attempt(error)
                continue
            if self._record_status(answer) or is_last:
                return answer
            answer.close()
            self._end_attempt(None)

    def _begin_attempt(self, target: Target) -> None:
        self._breaker = breaker_for(target.fingerprint)
        self._is_trial = self._breaker.begin_call()

    def _record_status(self, answer: Answer) -> bool:
        """Record the status in the circuit breaker. False if the upstream failed.

        A 4xx other than 429 is the caller's mistake, not the upstream's failure.
        """
        breaker = self._breaker
        assert breaker is not None  # noqa: S101 - for the type checker
        if answer.status < 500 and answer.status != 429:
            breaker.record_success()
            return True
        breaker.record_failure(str(answer.status), _retry_after(answer))
        return False

    def _end_attempt(self, error: BaseException | None) -> None:
        if self._breaker is None:
            return
        if error is not None and isinstance(error, (UpstreamFailed, UpstreamTimedOut)):
            self._breaker.record_failure(type(error).__name__)
        self._breaker.end_call(was_trial=self._is_trial)
        self._breaker = None


def _retry_after(answer: Answer) -> float:
    """Seconds; 0 if the header is missing or is a date, which is not parsed."""
    text = next((value for name, value in answer.headers if name == b"retry-after"), b"")
    return float(text) if text.isdigit() and len(text) < 10 else 0

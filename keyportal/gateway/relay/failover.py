"""Which upstream gets a call, and which one is tried next if it fails before its answer begins."""

import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from keyportal.catalog.circuit_breaker import (
    LACKS_MODEL,
    REFUSES_CREDENTIAL,
    CircuitBreaker,
    breaker_for,
)
from keyportal.catalog.snapshot import Target
from keyportal.gateway.errors import (
    UpstreamConnectTimeout,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTimedOut,
)
from keyportal.gateway.metering.attempts import Attempt
from keyportal.gateway.relay.answer import Answer
from keyportal.gateway.relay.retry_after import seconds_to_wait

# Statuses that tell of a mistake in our settings, and the text for the caller.
_REFUSALS = {
    401: "",
    402: "",
    403: "The model server refuses this call, or this gateway's credential.",
    404: "The model server does not know this model, or does not have this endpoint.",
}

logger = logging.getLogger(__name__)


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

    __slots__ = (
        "_answer",
        "_attempts",
        "_began",
        "_breaker",
        "_is_trial",
        "_names_stored_answer",
        "_remaining",
        "_send",
        "_target",
    )

    def __init__(
        self,
        targets: Sequence[Target],
        send: Callable[[Target], Awaitable[Answer]],
        attempts: list[Attempt] | None = None,
        *,
        names_stored_answer: bool = False,
    ) -> None:
        """`attempts` gets what became of each.

        `names_stored_answer`: a 404 may mean an answer that the caller names, not the model."""
        self._remaining = targets
        self._send = send
        self._attempts: list[Attempt] = [] if attempts is None else attempts
        self._target: Target | None = None
        self._began = 0.0
        self._names_stored_answer = names_stored_answer
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
        """The first answer that is neither a failure nor a refusal, or else the last of them.

        Raises `UpstreamRefused`, and what `send` raises for the last target. A read timeout is
        raised at once: the caller has waited for as long as a server may be silent, and the server
        may still be working.
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
            refused = None
            if answer.status in _REFUSALS:
                refused = self._record_refusal(target, answer)
            if refused and is_last:
                raise refused
            if not refused and (self._record_status(target, answer) or is_last):
                return answer
            answer.close()
            self._end_attempt(None)

    def _begin_attempt(self, target: Target) -> None:
        self._target, self._answer, self._began = target, None, time.monotonic()
        self._breaker = breaker_for(target.fingerprint)
        if self._breaker.name != target.name:
            self._breaker.name, self._breaker.is_of_team = target.name, bool(target.team_id)
        self._is_trial = self._breaker.begin_call()

    def _record_refusal(self, target: Target, answer: Answer) -> UpstreamRefused | None:
        """Record that the server refuses the call because of our settings. None if it does not.

        Such a server answers fast, so it would attract calls: it is left out for a while, like one
        that fails. But callers can cause a 403 (by what filters refuse) and a 404 (by an endpoint
        that the server lacks). Attack: one caller makes a server unavailable to others.
        """
        status = answer.status
        if status == 404 and self._names_stored_answer:
            return None
        breaker = self._breaker
        assert breaker is not None  # noqa: S101 - for the type checker
        if status in {401, 402}:
            breaker.record_failure(str(status), seconds_to_wait(answer.headers))
        refusal = LACKS_MODEL if status == 404 else REFUSES_CREDENTIAL
        if (status != 404 or _is_about_model(answer)) and breaker.record_refusal(
            target.model, refusal
        ):
            logger.warning(
                "Model server %s %s: %s for %s.", target.name, refusal, status, target.model
            )
        return UpstreamRefused(_REFUSALS[status])

    def _record_status(self, target: Target, answer: Answer) -> bool:
        """Record the status in the circuit breaker. False if the upstream failed.

        Any other 4xx than 429 is the caller's mistake, not the upstream's failure.
        """
        breaker = self._breaker
        assert breaker is not None  # noqa: S101 - for the type checker
        if answer.status < 500 and answer.status != 429:
            breaker.record_success(target.model)
            return True
        breaker.record_failure(str(answer.status), seconds_to_wait(answer.headers))
        return False

    def _record_attempt(self, error: BaseException | None) -> None:
        assert self._target is not None  # noqa: S101 - for the type checker
        milliseconds = int((time.monotonic() - self._began) * 1000)
        outcome = _outcome(error, self._answer)
        self._attempts.append(Attempt(self._target.name, self._target.model, outcome, milliseconds))

    def _end_attempt(self, error: BaseException | None) -> None:
        if self._breaker is None:
            return
        self._record_attempt(error)
        if error is not None and isinstance(error, (UpstreamFailed, UpstreamTimedOut)):
            self._breaker.record_failure(type(error).__name__, detail=error.cause)
        self._breaker.end_call(was_trial=self._is_trial)
        self._breaker = None


def _outcome(error: BaseException | None, answer: Answer | None) -> str:
    if error is not None and not isinstance(error, UpstreamRefused):
        return type(error).__name__
    return str(answer.status) if answer else ""


def _is_about_model(answer: Answer) -> bool:
    """Whether a 404 says that the model is unknown. A server without an endpoint has no such words.

    Azure's servers speak of deployments.
    """
    text = answer.body[:4096].lower() if isinstance(answer.body, bytes) else b""
    return b"model" in text or b"deployment" in text

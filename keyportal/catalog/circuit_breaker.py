"""Circuit breakers: an upstream that fails gets no calls for a while.

The gateway records the outcomes of calls here. The state is in memory and not shared: each worker
has its own, and learns of a failure from its own calls. Pages read what all workers have met: see
`servers/health.py`. An upstream whose settings change gets a new breaker.
"""

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

logger = logging.getLogger(__name__)

MIN_OPEN_SECONDS = 1.0  # Doubled each time that the breaker opens again without a success between.
MAX_OPEN_SECONDS = 60.0

# What a model server refuses, for people who can see the models of a team.
REFUSES_CREDENTIAL = "refuses our credential"
LACKS_MODEL = "does not know the model"

OF_TEAMS = "(of teams)"  # The label of all servers that teams have added.


class CircuitBreaker:
    """The state of one upstream. Times are seconds on the monotonic clock.

    It is closed while `failures` is 0, open until `open_until`, and then half open: one trial call
    finds out whether the upstream works again.
    """

    __slots__ = (
        "calls",
        "failed_calls",
        "failing_since",
        "failures",
        "has_answered",
        "has_trial",
        "is_of_team",
        "last_failure",
        "name",
        "open_until",
        "refusals",
        "takes_stream_options",
    )

    def __init__(self) -> None:
        self.name = ""
        """The upstream's, for the log."""
        self.is_of_team = False
        """Metrics have no names of teams, and no label for each of their servers."""
        self.failed_calls = 0
        """Since the upstream worked."""
        self.calls = 0
        """Calls in flight to the upstream, from this process."""
        self.failures = 0
        """How often the breaker opened without a success between; 0 while the upstream works."""
        self.open_until = 0.0
        self.failing_since = 0.0
        """When it opened first without a success between."""
        self.last_failure = ""
        """A status or an exception's name, for operators."""
        self.has_answered = False
        self.has_trial = False
        """The trial call is in flight."""
        self.refusals: dict[str, str] = {}
        """What is refused for a model, by its name on the server, until a call of it succeeds."""
        self.takes_stream_options: dict[str, bool] = {}
        """By a model's name on the server, as its answers have shown."""

    def allows_call(self, now: float) -> bool:
        """Whether the breaker is closed, or half open without a trial call in flight."""
        return not self.failures or (now >= self.open_until and not self.has_trial)

    def begin_call(self) -> bool:
        """Count a call to the upstream. True if it is the trial call; pass that to `end_call`."""
        self.calls += 1
        is_trial = bool(self.failures) and not self.has_trial
        self.has_trial = self.has_trial or is_trial
        return is_trial

    def end_call(self, *, was_trial: bool) -> None:
        self.calls -= 1
        if was_trial:
            self.has_trial = False

    def record_success(self, model: str = "") -> None:
        if self.failures:
            logger.warning(
                "Model server %s is back. %d calls met its failures.", self.name, self.failed_calls
            )
            self.failures = self.failed_calls = 0
        self.has_answered = True
        if self.refusals:
            self.refusals.pop(model, None)

    def record_refusal(self, model: str, refusal: str) -> bool:
        """Note that the server refuses calls of this model. True if that is new."""
        is_new = self.refusals.get(model) != refusal
        self.refusals[model] = refusal
        return is_new

    def forget_models_except(self, models: Collection[str]) -> None:
        """In place of the dicts, because other threads may be using them."""
        self.refusals = {
            model: refusal for model, refusal in tuple(self.refusals.items()) if model in models
        }
        self.takes_stream_options = {
            model: takes
            for model, takes in tuple(self.takes_stream_options.items())
            if model in models
        }

    def record_failure(self, reason: str, retry_after: float = 0, *, detail: str = "") -> None:
        """Open the breaker. The server's `retry_after` seconds are respected, up to a minute.

        Failures while it is open belong to calls that began before, so they don't count again.

        The log has one line when the server fails, with the `detail`, and one when it is back: a
        line for each call would hide all others.
        """
        self.last_failure = reason
        self.failed_calls += 1
        failure_counts[self.label, reason] += 1
        now = time.monotonic()
        if now >= self.open_until:
            if not self.failures:
                logger.warning("Model server %s fails: %s.", self.name, detail or reason)
                self.failing_since = now
            self.failures += 1
            seconds = min(MIN_OPEN_SECONDS * 2 ** min(self.failures - 1, 10), MAX_OPEN_SECONDS)
            self.open_until = now + seconds
        self.open_until = max(self.open_until, now + min(retry_after, MAX_OPEN_SECONDS))

    @property
    def label(self) -> str:
        """For metrics."""
        return OF_TEAMS if self.is_of_team else self.name

    @property
    def sight(self) -> "Sight":
        since = self.failing_since if self.failures else None
        return Sight(since, self.last_failure, self.has_answered, dict(self.refusals))


class Sight(NamedTuple):
    """What one worker has met of an upstream. It changes only when the upstream does."""

    failing_since: float | None
    """On the monotonic clock; None: it does not fail."""
    last_failure: str
    has_answered: bool
    refusals: dict[str, str]


_breakers: dict[str, CircuitBreaker] = {}
# By the upstream's label and the reason, since this process began. No change of settings resets it.
failure_counts: Counter[tuple[str, str]] = Counter()


def states() -> Iterator[tuple[str, bool, int]]:
    """The label of each upstream that was called, whether it fails, and its calls in flight."""
    for breaker in tuple(_breakers.values()):
        if breaker.name:
            yield breaker.label, bool(breaker.failures), breaker.calls


def sights() -> dict[str, Sight]:
    """By the fingerprint of each upstream that was called."""
    return {key: breaker.sight for key, breaker in tuple(_breakers.items()) if breaker.name}


def breaker_for(fingerprint: str) -> CircuitBreaker:
    """The circuit breaker of the upstream with this fingerprint."""
    breaker = _breakers.get(fingerprint)
    if breaker is None:
        breaker = _breakers[fingerprint] = CircuitBreaker()
    return breaker


def forget_all_except(models: Mapping[str, Collection[str]]) -> None:
    """Delete the breakers of upstreams that were deleted or changed, and what the others know of
    models that they serve no longer. `models` has the models' names on each upstream, by its
    fingerprint. May run in any thread.

    Attack: an admin of a team serves one name after the other on the team's own server, which
    refuses them all. Each would stay in the memory of every worker, and in what it writes.
    """
    for fingerprint, breaker in tuple(_breakers.items()):
        if fingerprint in models:
            breaker.forget_models_except(models[fingerprint])
        else:
            _breakers.pop(fingerprint, None)

"""How each upstream fares, as this process sees it: one that fails is left alone for a while.

The gateway writes what it meets here, the portal reads it. Nothing is stored and nothing is
shared: another worker has its own view, and learns of a failure by meeting it. An upstream whose
settings change starts fresh.
"""

import time
from collections.abc import Collection, Iterable

FIRST_REST = 1.0  # Seconds; doubled with each failure after a rest.
LONGEST_REST = 60.0


class CircuitBreaker:
    """One upstream. Times are seconds on the monotonic clock."""

    __slots__ = ("calls", "failures", "has_answered", "is_on_trial", "last_failure", "rests_until")

    def __init__(self) -> None:
        self.calls = 0
        """In flight there now, from this process."""
        self.failures = 0
        """Rests in a row without an answer between them; 0 while it answers."""
        self.rests_until = 0.0
        self.last_failure = ""
        """What it was, for operators."""
        self.has_answered = False
        self.is_on_trial = False
        """One call is there to find out whether it answers again."""

    def may_be_asked(self, now: float) -> bool:
        """After a rest, by one call until that has shown how it fares."""
        return not self.failures or (now >= self.rests_until and not self.is_on_trial)

    def begin(self) -> bool:
        """A call goes there. True if it is the one that finds out."""
        self.calls += 1
        is_trial = bool(self.failures) and not self.is_on_trial
        self.is_on_trial = self.is_on_trial or is_trial
        return is_trial

    def end(self, *, was_trial: bool) -> None:
        self.calls -= 1
        if was_trial:
            self.is_on_trial = False

    def answered(self) -> None:
        self.failures = 0
        self.has_answered = True

    def failed(self, why: str, retry_after: float = 0) -> None:
        """Leave it alone; a server's own wish for how long is followed up to a minute.

        What fails while it rests began before, and says nothing new.
        """
        self.last_failure = why
        now = time.monotonic()
        if now >= self.rests_until:
            self.failures += 1
            rest = min(FIRST_REST * 2 ** min(self.failures - 1, 10), LONGEST_REST)
            self.rests_until = now + rest
        self.rests_until = max(self.rests_until, now + min(retry_after, LONGEST_REST))

    def __str__(self) -> str:
        if not self.failures:
            return "answers" if self.has_answered else "not called yet"
        seconds = self.rests_until - time.monotonic()
        rest = f"left alone for {seconds:.0f} s" if seconds > 0 else "to be tried again"
        return f"fails ({self.last_failure}), {rest}"


_upstreams: dict[str, CircuitBreaker] = {}


def breaker_of(fingerprint: str) -> CircuitBreaker:
    """The health of the upstream with this fingerprint."""
    health = _upstreams.get(fingerprint)
    if health is None:
        health = _upstreams[fingerprint] = CircuitBreaker()
    return health


def keep_only(fingerprints: Collection[str]) -> None:
    """Forget upstreams that are gone or were changed. May run in another thread."""
    for fingerprint in tuple(_upstreams):
        if fingerprint not in fingerprints:
            _upstreams.pop(fingerprint, None)


def summary(fingerprints: Iterable[str]) -> str:
    """How those that serve one model fare together, without saying which they are."""
    found = [breaker_of(fingerprint) for fingerprint in fingerprints]
    failing = sum(bool(health.failures) for health in found)
    if failing == len(found):
        return "Fails"
    if failing:
        return f"{failing} of {len(found)} servers fail"
    return "Answers" if any(health.has_answered for health in found) else "Not called yet"

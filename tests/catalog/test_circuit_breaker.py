"""Who fails is left alone for a while, longer each time, and then tried by one call."""

import pytest

from keyportal.catalog import circuit_breaker as module
from keyportal.catalog.circuit_breaker import CircuitBreaker


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def rest(breaker: CircuitBreaker, clock: Clock) -> float:
    return breaker.open_until - clock.now


def test_each_failure_doubles_the_open_time_up_to_a_minute(clock: Clock) -> None:
    breaker, rests = CircuitBreaker(), []
    for _ in range(100):
        breaker.record_failure("502")
        rests.append(rest(breaker, clock))
        clock.now = breaker.open_until
    assert rests[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert rests[-1] == 60


def test_concurrent_failures_count_once(clock: Clock) -> None:
    """A hundred calls in flight there don't make a minute of a moment's trouble."""
    breaker = CircuitBreaker()
    for _ in range(100):
        breaker.record_failure("502")
    assert (breaker.failures, rest(breaker, clock)) == (1, 1)


@pytest.mark.parametrize(("wished", "given"), [(0, 1), (7, 7), (60, 60), (86_400, 60), (-5, 1)])
def test_retry_after_is_respected_up_to_a_minute(clock: Clock, wished: float, given: float) -> None:
    breaker = CircuitBreaker()
    breaker.record_failure("429", wished)
    assert rest(breaker, clock) == given
    breaker.record_failure("502")
    assert rest(breaker, clock) == given  # Never shortened by what comes in late.


def test_half_open_breaker_allows_one_trial_call(clock: Clock) -> None:
    breaker = CircuitBreaker()
    assert breaker.allows_call(clock.now)
    breaker.record_failure("502")
    assert not breaker.allows_call(clock.now)
    clock.now += 1
    assert breaker.allows_call(clock.now)
    assert breaker.begin_call()
    assert not breaker.allows_call(clock.now)
    assert not breaker.begin_call()  # Where there is nobody else, it may be asked all the same.
    breaker.end_call(was_trial=False)
    assert not breaker.allows_call(clock.now)
    breaker.end_call(was_trial=True)  # It found out nothing: its client went away.
    assert breaker.allows_call(clock.now)
    assert breaker.begin_call()
    breaker.record_success()
    assert breaker.allows_call(clock.now)
    assert breaker.calls == 1


def test_success_closes_the_breaker(clock: Clock) -> None:
    breaker = CircuitBreaker()
    for _ in range(5):
        breaker.record_failure("502")
        clock.now = breaker.open_until
    breaker.record_success()
    breaker.record_failure("502")
    assert rest(breaker, clock) == 1


def test_breaker_as_text(clock: Clock) -> None:
    breaker = CircuitBreaker()
    assert str(breaker) == "not called yet"
    breaker.record_success()
    assert str(breaker) == "answers"
    breaker.record_failure("503", 12)
    assert str(breaker) == "fails (503), no calls for 12 s"
    clock.now += 13
    assert str(breaker) == "fails (503), the next call is a trial"


def test_each_upstream_has_its_own_breaker() -> None:
    assert module.breaker_for("a-name") is module.breaker_for("a-name")
    assert module.breaker_for("a-name") is not module.breaker_for("another")

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


def rest(health: CircuitBreaker, clock: Clock) -> float:
    return health.rests_until - clock.now


def test_each_failure_after_a_rest_doubles_the_next_up_to_a_minute(clock: Clock) -> None:
    health, rests = CircuitBreaker(), []
    for _ in range(100):
        health.failed("502")
        rests.append(rest(health, clock))
        clock.now = health.rests_until
    assert rests[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert rests[-1] == 60


def test_many_that_fail_at_once_are_one_failure(clock: Clock) -> None:
    """A hundred calls in flight there don't make a minute of a moment's trouble."""
    health = CircuitBreaker()
    for _ in range(100):
        health.failed("502")
    assert (health.failures, rest(health, clock)) == (1, 1)


@pytest.mark.parametrize(("wished", "given"), [(0, 1), (7, 7), (60, 60), (86_400, 60), (-5, 1)])
def test_a_servers_own_wish_is_followed_up_to_a_minute(
    clock: Clock, wished: float, given: float
) -> None:
    health = CircuitBreaker()
    health.failed("429", wished)
    assert rest(health, clock) == given
    health.failed("502")
    assert rest(health, clock) == given  # Never shortened by what comes in late.


def test_after_a_rest_one_call_finds_out(clock: Clock) -> None:
    health = CircuitBreaker()
    assert health.may_be_asked(clock.now)
    health.failed("502")
    assert not health.may_be_asked(clock.now)
    clock.now += 1
    assert health.may_be_asked(clock.now)
    assert health.begin()
    assert not health.may_be_asked(clock.now)
    assert not health.begin()  # Where there is nobody else, it may be asked all the same.
    health.end(was_trial=False)
    assert not health.may_be_asked(clock.now)
    health.end(was_trial=True)  # It found out nothing: its client went away.
    assert health.may_be_asked(clock.now)
    assert health.begin()
    health.answered()
    assert health.may_be_asked(clock.now)
    assert health.calls == 1


def test_an_answer_ends_it_and_the_next_failure_begins_anew(clock: Clock) -> None:
    health = CircuitBreaker()
    for _ in range(5):
        health.failed("502")
        clock.now = health.rests_until
    health.answered()
    health.failed("502")
    assert rest(health, clock) == 1


def test_in_words(clock: Clock) -> None:
    health = CircuitBreaker()
    assert str(health) == "not called yet"
    health.answered()
    assert str(health) == "answers"
    health.failed("503", 12)
    assert str(health) == "fails (503), left alone for 12 s"
    clock.now += 13
    assert str(health) == "fails (503), to be tried again"


def test_each_upstream_has_its_own() -> None:
    assert module.breaker_of("a-name") is module.breaker_of("a-name")
    assert module.breaker_of("a-name") is not module.breaker_of("another")

"""A circuit breaker opens after a failure, longer each time, and then allows one trial call."""

from collections import Counter

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


def open_seconds(breaker: CircuitBreaker, clock: Clock) -> float:
    return breaker.open_until - clock.now


def test_each_failure_doubles_the_open_time_up_to_a_minute(clock: Clock) -> None:
    breaker, durations = CircuitBreaker(), []
    for _ in range(100):
        breaker.record_failure("502")
        durations.append(open_seconds(breaker, clock))
        clock.now = breaker.open_until
    assert durations[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert durations[-1] == 60


def test_concurrent_failures_count_once(clock: Clock) -> None:
    """A hundred calls that fail at once don't open it for a minute."""
    breaker = CircuitBreaker()
    for _ in range(100):
        breaker.record_failure("502")
    assert (breaker.failures, open_seconds(breaker, clock)) == (1, 1)


@pytest.mark.parametrize(
    ("retry_after", "expected"), [(0, 1), (7, 7), (60, 60), (86_400, 60), (-5, 1)]
)
def test_retry_after_is_respected_up_to_a_minute(
    clock: Clock, retry_after: float, expected: float
) -> None:
    breaker = CircuitBreaker()
    breaker.record_failure("429", retry_after)
    assert open_seconds(breaker, clock) == expected
    breaker.record_failure("502")
    assert open_seconds(breaker, clock) == expected  # A later failure never shortens it.


def test_half_open_breaker_allows_one_trial_call(clock: Clock) -> None:
    breaker = CircuitBreaker()
    assert breaker.allows_call(clock.now)
    breaker.record_failure("502")
    assert not breaker.allows_call(clock.now)
    clock.now += 1
    assert breaker.allows_call(clock.now)
    assert breaker.begin_call()
    assert not breaker.allows_call(clock.now)
    assert not breaker.begin_call()  # A call may go there if there is no other upstream.
    breaker.end_call(was_trial=False)
    assert not breaker.allows_call(clock.now)
    breaker.end_call(was_trial=True)  # Without an outcome, because its client disconnected.
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
    assert open_seconds(breaker, clock) == 1


def test_sight_changes_only_with_the_state(clock: Clock) -> None:
    """It is written each time that it changes."""
    breaker = CircuitBreaker()
    before = breaker.sight
    breaker.record_failure("503", 12)
    failing = breaker.sight
    assert failing.failing_since == clock.now
    clock.now += 30
    breaker.record_failure("503")
    assert breaker.sight == failing != before
    breaker.record_success()
    assert (breaker.sight.failing_since, breaker.sight.has_answered) == (None, True)
    assert breaker.sight.last_failure == "503"


def test_metrics_count_the_servers_of_teams_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: an admin gives servers the names of operators' ones, or fills the metrics."""
    monkeypatch.setattr(module, "_breakers", {})
    monkeypatch.setattr(module, "failure_counts", Counter())
    for name, is_of_team in (("gpu-7", False), ("acme/gpu-7", True), ("acme/x", True)):
        breaker = module.breaker_for(name)
        breaker.name, breaker.is_of_team = name, is_of_team
        breaker.record_failure("502")
    assert module.failure_counts == {("gpu-7", "502"): 1, ("(of teams)", "502"): 2}
    assert {label for label, *_ in module.states()} == {"gpu-7", "(of teams)"}


def test_each_upstream_has_its_own_breaker() -> None:
    assert module.breaker_for("a-name") is module.breaker_for("a-name")
    assert module.breaker_for("a-name") is not module.breaker_for("another")


def test_log_says_once_that_a_server_fails_and_once_that_it_is_back(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    breaker = CircuitBreaker()
    breaker.name = "vllm"
    breaker.record_success()
    for _ in range(3):
        for _ in range(100):
            breaker.record_failure("UpstreamFailed", detail="ConnectFailed: connection refused")
        clock.now = breaker.open_until
    breaker.record_success()
    breaker.record_success()
    assert caplog.messages == [
        "Model server vllm fails: ConnectFailed: connection refused.",
        "Model server vllm is back. 300 calls met its failures.",
    ]

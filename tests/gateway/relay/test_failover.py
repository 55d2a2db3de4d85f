"""Which upstream gets a call: by weight, by load, never one that rests while another doesn't."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from keyportal.catalog import circuit_breaker
from keyportal.catalog.snapshot import Target
from keyportal.gateway.errors import (
    BadRequest,
    GatewayError,
    UpstreamConnectTimeout,
    UpstreamFailed,
    UpstreamTimedOut,
)
from keyportal.gateway.relay.answer import Answer, BufferedBody, json_answer
from keyportal.gateway.relay.failover import UpstreamAttempts, choose_target

pytestmark = pytest.mark.any_database

DRAWS = 4000


@pytest.fixture(autouse=True)
def _fresh_health(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "_breakers", {})


def targets(**weights: int) -> list[Target]:
    return [Target(name, "http://x/v1", "", "m", weight, 1, 1) for name, weight in weights.items()]


def drawn(some: list[Target]) -> Counter[str]:
    return Counter(choose_target(some).fingerprint for _ in range(DRAWS))


def test_idle_targets_are_chosen_by_weight() -> None:
    picked = drawn(targets(small=1, large=3))
    assert picked["small"] + picked["large"] == DRAWS
    # Ten standard deviations around the expected thousand.
    assert abs(picked["small"] - DRAWS / 4) < 280


def test_only_route_gets_all_calls_even_if_it_fails() -> None:
    (only,) = targets(only=7)
    circuit_breaker.breaker_for("only").record_failure("502")
    assert choose_target([only]) is only


def test_less_busy_of_two_draws_is_chosen() -> None:
    circuit_breaker.breaker_for("slow").calls = 10
    picked = drawn(targets(slow=1, quick=1))
    assert abs(picked["slow"] - DRAWS / 4) < 280  # Only where both draws are it.


def test_load_is_calls_divided_by_weight() -> None:
    """Thirty calls are for a weight of three what ten are for one: nobody is busier."""
    circuit_breaker.breaker_for("small").calls, circuit_breaker.breaker_for("large").calls = 10, 30
    assert abs(drawn(targets(small=1, large=3))["small"] - DRAWS / 4) < 280


def test_open_breaker_is_avoided_unless_all_are_open() -> None:
    circuit_breaker.breaker_for("a").record_failure("502")
    assert drawn(targets(a=9, b=1)) == {"b": DRAWS}
    circuit_breaker.breaker_for("b").record_failure("502")
    assert set(drawn(targets(a=1, b=1))) == {"a", "b"}


def test_calls_are_shared_by_weight_while_all_are_busy() -> None:
    """As many come as go: what is in flight settles at the weights."""
    some = targets(a=1, b=2, c=5)
    for _ in range(800):
        circuit_breaker.breaker_for(choose_target(some).fingerprint).calls += 1
    shares = {name: circuit_breaker.breaker_for(name).calls for name in "abc"}
    assert shares == pytest.approx({"a": 100, "b": 200, "c": 500}, rel=0.1)


Outcome = int | GatewayError


class Closing(BufferedBody):
    """An answer's body that notes when nobody wants the rest."""

    def __init__(self, name: str, closed: list[str]) -> None:
        super().__init__([b"{}"])
        self._name = name
        self._closed = closed

    def close(self) -> None:
        self._closed.append(self._name)


class World:
    """Upstreams that do what they are told, and remember that they were asked and let go."""

    def __init__(self, **outcomes: Outcome) -> None:
        self.outcomes = outcomes
        self.asked: list[str] = []
        self.closed: list[str] = []

    async def ask(self, target: Target) -> Answer:
        self.asked.append(target.fingerprint)
        outcome = self.outcomes[target.fingerprint]
        if isinstance(outcome, GatewayError):
            raise outcome
        headers = [(b"retry-after", b"30")] if outcome in {429, 503} else []
        return Answer(outcome, headers, Closing(target.fingerprint, self.closed))

    def travel(self) -> int:
        async def travel() -> int:
            some = targets(**dict.fromkeys(self.outcomes, 1))
            with UpstreamAttempts(some, self.ask) as journey:
                answer = await journey.answer()
                assert circuit_breaker.breaker_for(self.asked[-1]).calls == 1
                return answer.status

        try:
            return asyncio.run(travel())
        finally:
            assert [circuit_breaker.breaker_for(name).calls for name in self.outcomes] == [0] * len(
                self.outcomes
            )


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The first that may be asked is asked first."""
    monkeypatch.setattr("random.choices", lambda among, *_, **__: [among[0], among[0]])
    return iter(())


FAILURES: list[Outcome] = [500, 502, 503, 504, 529, 429, UpstreamFailed(), UpstreamConnectTimeout()]


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_failure_before_the_answer_is_retried_elsewhere(failure: Outcome) -> None:
    world = World(bad=failure, good=200)
    assert world.travel() == 200
    assert world.asked == ["bad", "good"]
    assert world.travel() == 200
    assert world.asked == ["bad", "good", "good"]  # Now it is left alone.
    assert "bad" in world.closed or isinstance(failure, GatewayError)
    assert circuit_breaker.breaker_for("bad").failures == 1


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("status", [200, 201, 400, 401, 403, 404, 408, 409, 413, 422, 499])
def test_clients_mistake_is_not_retried(status: int) -> None:
    world = World(first=status, second=200)
    assert world.travel() == status
    assert world.asked == ["first"]
    assert not circuit_breaker.breaker_for("first").failures


@pytest.mark.usefixtures("in_order")
def test_caller_gets_the_last_failure() -> None:
    assert World(a=UpstreamFailed(), b=502, c=503).travel() == 503
    with pytest.raises(UpstreamFailed):
        World(d=502, e=UpstreamFailed()).travel()
    assert all(circuit_breaker.breaker_for(name).failures == 1 for name in "abcde")


@pytest.mark.usefixtures("in_order")
def test_read_timeout_is_not_retried() -> None:
    """The caller has waited for as long as a server may be silent, and it may be at work."""
    world = World(silent=UpstreamTimedOut(), good=200)
    with pytest.raises(UpstreamTimedOut):
        world.travel()
    assert world.asked == ["silent"]
    assert circuit_breaker.breaker_for("silent").failures == 1


@pytest.mark.usefixtures("in_order")
def test_gateway_refusal_is_no_upstream_failure() -> None:
    world = World(a=BadRequest(), b=200)
    with pytest.raises(BadRequest):
        world.travel()
    assert world.asked == ["a"]
    assert not circuit_breaker.breaker_for("a").failures


@pytest.mark.usefixtures("in_order")
def test_broken_answer_is_a_failure_and_not_retried() -> None:
    world = World(a=200, b=200)

    async def break_off() -> None:
        with UpstreamAttempts(targets(a=1, b=1), world.ask) as journey:
            await journey.answer()
            raise UpstreamFailed

    with pytest.raises(UpstreamFailed):
        asyncio.run(break_off())
    assert world.asked == ["a"]
    assert circuit_breaker.breaker_for("a").failures == 1
    assert world.closed == ["a"]


def test_cancelled_trial_allows_another() -> None:
    circuit_breaker.breaker_for("a").failures = 1

    async def leave() -> None:
        with UpstreamAttempts(targets(a=1), World(a=200).ask):
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(leave())
    assert not circuit_breaker.breaker_for("a").has_trial


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(
    ("wish", "rest"), [(b"30", 30), (b"", 1), (b"soon", 1), (b"-1", 1), (b"9" * 5000, 1)]
)
def test_retry_after_is_parsed_strictly(wish: bytes, rest: float) -> None:
    async def ask(target: Target) -> Answer:
        return json_answer({})._replace(status=429, headers=[(b"retry-after", wish)])

    async def travel() -> float:
        with UpstreamAttempts(targets(a=1), ask) as journey:
            await journey.answer()
        return circuit_breaker.breaker_for("a").open_until - asyncio.get_running_loop().time()

    assert asyncio.run(travel()) == pytest.approx(rest, abs=0.5)

"""Which upstream gets a call: by weight and load, and avoiding open circuit breakers."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest

from keyportal.catalog import circuit_breaker
from keyportal.catalog.headers import ServerHeaders
from keyportal.catalog.snapshot import Target
from keyportal.gateway.errors import (
    BadRequest,
    GatewayError,
    UpstreamConnectTimeout,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTimedOut,
)
from keyportal.gateway.relay.answer import Answer, BufferedBody, json_answer
from keyportal.gateway.relay.failover import UpstreamAttempts, choose_target

pytestmark = pytest.mark.any_database

DRAWS = 4000


@pytest.fixture(autouse=True)
def _new_breakers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "_breakers", {})


def targets(**weights: int) -> list[Target]:
    return [
        Target(name, "http://x/v1", ServerHeaders(), "m", weight, 1, 1, name=name)
        for name, weight in weights.items()
    ]


def count_draws(some: list[Target]) -> Counter[str]:
    return Counter(choose_target(some).fingerprint for _ in range(DRAWS))


def test_idle_targets_are_chosen_by_weight() -> None:
    picked = count_draws(targets(small=1, large=3))
    assert picked["small"] + picked["large"] == DRAWS
    # Ten standard deviations around the expected thousand.
    assert abs(picked["small"] - DRAWS / 4) < 280


def test_only_route_gets_all_calls_even_if_it_fails() -> None:
    (only,) = targets(only=7)
    circuit_breaker.breaker_for("only").record_failure("502")
    assert choose_target([only]) is only


def test_less_busy_of_two_draws_is_chosen() -> None:
    circuit_breaker.breaker_for("slow").calls = 10
    picked = count_draws(targets(slow=1, quick=1))
    assert abs(picked["slow"] - DRAWS / 4) < 280  # Only if both draws are the slow one.


def test_load_is_calls_divided_by_weight() -> None:
    """Thirty calls for a weight of three are as many as ten for a weight of one."""
    circuit_breaker.breaker_for("small").calls, circuit_breaker.breaker_for("large").calls = 10, 30
    assert abs(count_draws(targets(small=1, large=3))["small"] - DRAWS / 4) < 280


def test_open_breaker_is_avoided_unless_all_are_open() -> None:
    circuit_breaker.breaker_for("a").record_failure("502")
    assert count_draws(targets(a=9, b=1)) == {"b": DRAWS}
    circuit_breaker.breaker_for("b").record_failure("502")
    assert set(count_draws(targets(a=1, b=1))) == {"a", "b"}


def test_calls_are_shared_by_weight_while_all_are_busy() -> None:
    """With a constant number of calls in flight, their shares approach the weights."""
    some = targets(a=1, b=2, c=5)
    for _ in range(800):
        circuit_breaker.breaker_for(choose_target(some).fingerprint).calls += 1
    shares = {name: circuit_breaker.breaker_for(name).calls for name in "abc"}
    assert shares == pytest.approx({"a": 100, "b": 200, "c": 500}, rel=0.1)


Outcome = int | GatewayError


class RecordedBody(BufferedBody):
    """A body that records when it is closed."""

    def __init__(self, name: str, closed: list[str]) -> None:
        super().__init__([b"{}"])
        self._name = name
        self._closed = closed

    def close(self) -> None:
        self._closed.append(self._name)


class FakeUpstreams:
    """Upstreams with given outcomes. They record which were called and which bodies were closed."""

    def __init__(self, **outcomes: Outcome) -> None:
        self.outcomes = outcomes
        self.called: list[str] = []
        self.closed: list[str] = []

    async def send(self, target: Target) -> Answer:
        self.called.append(target.fingerprint)
        outcome = self.outcomes[target.fingerprint]
        if isinstance(outcome, GatewayError):
            raise outcome
        headers = [(b"retry-after", b"30")] if outcome in {429, 503} else []
        return Answer(outcome, headers, RecordedBody(target.fingerprint, self.closed))

    def status(self) -> int:
        """Make one call and return the status that its caller gets."""

        async def call() -> int:
            some = targets(**dict.fromkeys(self.outcomes, 1))
            with UpstreamAttempts(some, self.send) as attempts:
                answer = await attempts.answer()
                assert circuit_breaker.breaker_for(self.called[-1]).calls == 1
                return answer.status

        try:
            return asyncio.run(call())
        finally:
            assert [circuit_breaker.breaker_for(name).calls for name in self.outcomes] == [0] * len(
                self.outcomes
            )


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Choose the first available target."""
    monkeypatch.setattr("random.choices", lambda among, *_, **__: [among[0], among[0]])
    return iter(())


FAILURES: list[Outcome] = [500, 502, 503, 504, 529, 429, UpstreamFailed(), UpstreamConnectTimeout()]


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_failure_before_the_answer_is_retried_elsewhere(failure: Outcome) -> None:
    upstreams = FakeUpstreams(bad=failure, good=200)
    assert upstreams.status() == 200
    assert upstreams.called == ["bad", "good"]
    assert upstreams.status() == 200
    assert upstreams.called == ["bad", "good", "good"]  # Now its circuit breaker is open.
    assert "bad" in upstreams.closed or isinstance(failure, GatewayError)
    assert circuit_breaker.breaker_for("bad").failures == 1


def test_log_names_a_server_that_fails_and_never_quotes_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstreams = FakeUpstreams(bad=500)
    assert [upstreams.status() for _ in range(3)] == [500, 500, 500]
    upstreams.outcomes["bad"] = 200
    assert upstreams.status() == 200
    assert caplog.messages == [
        "Model server bad fails: 500.",
        "Model server bad is back. 3 calls met its failures.",
    ]


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("status", [200, 201, 400, 405, 408, 409, 413, 422, 499])
def test_client_error_is_not_retried(status: int) -> None:
    upstreams = FakeUpstreams(first=status, second=200)
    assert upstreams.status() == status
    assert upstreams.called == ["first"]
    assert not circuit_breaker.breaker_for("first").failures


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_refused_credential_is_retried_elsewhere(status: int) -> None:
    upstreams = FakeUpstreams(refusing=status, good=200)
    assert upstreams.status() == 200
    assert upstreams.called == ["refusing", "good"]
    assert upstreams.closed == ["refusing", "good"]


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "refuses this gateway's credential"),
        (402, "refuses this gateway's credential"),
        (403, "refuses this call"),
        (404, "does not know this model"),
    ],
)
def test_last_refusal_does_not_quote_the_server(status: int, message: str) -> None:
    upstreams = FakeUpstreams(failing=503, refusing=status)
    with pytest.raises(UpstreamRefused, match=message) as caught:
        upstreams.status()
    assert upstreams.closed == ["failing", "refusing"]
    assert caught.value.status == 502
    assert (b"x-should-retry", b"false") in caught.value.headers
    assert FakeUpstreams(first=status, last=418).status() == 418


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(("status", "failures"), [(401, 1), (402, 1), (403, 0), (404, 0)])
def test_errors_that_callers_can_cause_do_not_open_the_breaker(status: int, failures: int) -> None:
    """Attack: a caller has a server left out for everybody by what its filters refuse."""
    for _ in range(3):
        with pytest.raises(UpstreamRefused):
            FakeUpstreams(a=status).status()
    assert circuit_breaker.breaker_for("a").failures == failures


def refuse(status: int, body: bytes = b"{}", *, names_stored_answer: bool = False) -> int:
    """Make one call to the only server, which answers `status`. Returns the caller's status."""

    async def send(target: Target) -> Answer:
        return Answer(status, [], body)

    async def call() -> int:
        with UpstreamAttempts(
            targets(a=1), send, names_stored_answer=names_stored_answer
        ) as attempts:
            return (await attempts.answer()).status

    try:
        return asyncio.run(call())
    except UpstreamRefused as error:
        return error.status


@pytest.mark.parametrize(
    ("status", "body", "refusals"),
    [
        (401, b"Bad key sk-1", {"m": circuit_breaker.REFUSES_CREDENTIAL}),
        (403, b"Bad key sk-1", {"m": circuit_breaker.REFUSES_CREDENTIAL}),
        (404, b"The Model m.", {"m": circuit_breaker.LACKS_MODEL}),
        (404, b'{"detail": "Not Found"}', {}),
    ],
)
def test_refusal_is_marked_and_logged_once_until_a_call_succeeds(
    status: int, body: bytes, refusals: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    breaker = circuit_breaker.breaker_for("a")
    for _ in range(3):
        assert refuse(status, body) == 502
    assert breaker.sight.refusals == refusals
    assert bool(breaker.failures) is (status == 401)
    logged = [line for line in caplog.messages if circuit_breaker.REFUSES_CREDENTIAL in line]
    logged += [line for line in caplog.messages if circuit_breaker.LACKS_MODEL in line]
    assert len(logged) == bool(refusals)
    assert "sk-1" not in caplog.text
    assert refuse(200) == 200
    assert (breaker.failures, breaker.sight.refusals, breaker.has_answered) == (0, {}, True)


def test_missing_stored_response_is_a_client_error() -> None:
    assert refuse(404, names_stored_answer=True) == 404
    assert refuse(401, names_stored_answer=True) == 502


@pytest.mark.usefixtures("in_order")
def test_caller_gets_the_last_failure() -> None:
    assert FakeUpstreams(a=UpstreamFailed(), b=502, c=503).status() == 503
    with pytest.raises(UpstreamFailed):
        FakeUpstreams(d=502, e=UpstreamFailed()).status()
    assert all(circuit_breaker.breaker_for(name).failures == 1 for name in "abcde")


@pytest.mark.usefixtures("in_order")
def test_read_timeout_is_not_retried() -> None:
    """The caller has waited long already, and the server may still be working."""
    upstreams = FakeUpstreams(silent=UpstreamTimedOut(), good=200)
    with pytest.raises(UpstreamTimedOut):
        upstreams.status()
    assert upstreams.called == ["silent"]
    assert circuit_breaker.breaker_for("silent").failures == 1


@pytest.mark.usefixtures("in_order")
def test_gateway_refusal_is_not_an_upstream_failure() -> None:
    upstreams = FakeUpstreams(a=BadRequest(), b=200)
    with pytest.raises(BadRequest):
        upstreams.status()
    assert upstreams.called == ["a"]
    assert not circuit_breaker.breaker_for("a").failures


@pytest.mark.usefixtures("in_order")
def test_broken_response_is_a_failure_and_not_retried() -> None:
    upstreams = FakeUpstreams(a=200, b=200)

    async def break_off() -> None:
        with UpstreamAttempts(targets(a=1, b=1), upstreams.send) as attempts:
            await attempts.answer()
            raise UpstreamFailed

    with pytest.raises(UpstreamFailed):
        asyncio.run(break_off())
    assert upstreams.called == ["a"]
    assert circuit_breaker.breaker_for("a").failures == 1
    assert upstreams.closed == ["a"]


def test_cancelled_trial_allows_another() -> None:
    circuit_breaker.breaker_for("a").failures = 1

    async def cancel() -> None:
        with UpstreamAttempts(targets(a=1), FakeUpstreams(a=200).send):
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel())
    assert not circuit_breaker.breaker_for("a").has_trial


@pytest.mark.parametrize(
    ("headers", "open_seconds"),
    [
        ({b"retry-after": b"30"}, 30),
        ({b"retry-after": b"Fri, 01 Jan 2100 00:00:00 GMT"}, 60),
        ({b"retry-after": b"120", b"retry-after-ms": b"2500.5"}, 2.5005),
        ({}, 1),
    ],
)
@pytest.mark.parametrize("status", [401, 429, 503, 529])
def test_breaker_stays_open_for_as_long_as_the_server_says(
    headers: dict[bytes, bytes], open_seconds: float, status: int
) -> None:
    async def send(target: Target) -> Answer:
        return json_answer({})._replace(status=status, headers=list(headers.items()))

    async def call() -> None:
        with UpstreamAttempts(targets(a=1), send) as attempts, suppress(UpstreamRefused):
            await attempts.answer()

    before = time.monotonic()
    asyncio.run(call())
    open_until = circuit_breaker.breaker_for("a").open_until
    assert before <= open_until - open_seconds <= time.monotonic()

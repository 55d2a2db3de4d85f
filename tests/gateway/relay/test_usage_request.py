"""Streams are asked for their usage, but not of servers that refuse to be asked."""

import asyncio
import json
from collections.abc import Callable

import pytest

from keyportal.catalog import circuit_breaker
from keyportal.catalog.headers import ServerHeaders
from keyportal.catalog.snapshot import Target
from keyportal.gateway.errors import UpstreamFailed
from keyportal.gateway.relay.answer import Answer, BufferedBody
from keyportal.gateway.relay.json_body import CallRequest, parse_call
from keyportal.gateway.relay.usage_request import UsageAsker

pytestmark = pytest.mark.any_database
ASKED = {"include_usage": True}
TARGET = Target("a", "http://x/v1", ServerHeaders(), "m", 1, 1, 1)


@pytest.fixture(autouse=True)
def _new_breakers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "_breakers", {})


class Body(BufferedBody):
    is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Server:
    """Answers with `status(stream_options)`, and records what was sent."""

    def __init__(self, status: Callable[[object], int]) -> None:
        self._status = status
        self.sent: list[object] = []
        self.answers: list[Answer] = []

    async def send(self, target: Target, request: CallRequest) -> Answer:
        body = request.body_for(target.model)
        assert isinstance(body, bytes)
        options = json.loads(body).get("stream_options")
        self.sent.append(options)
        if status := self._status(options):
            self.answers.append(Answer(status, [], Body([b"{}"])))
            return self.answers[-1]
        raise UpstreamFailed

    def call(self, options: str = "", target: Target = TARGET) -> int:
        body = b'{"model": "x", "stream": true' + options.encode() + b"}"
        request = parse_call(body)
        assert request.request_usage()

        async def call() -> Answer:
            return await UsageAsker(request, self.send).send(target)

        answer = asyncio.run(call())
        # All other answers are closed, so that no connection is left open.
        open_answers = [one for one in self.answers if not getattr(one.body, "is_closed", True)]
        assert open_answers == [answer]
        answer.close()
        return answer.status


@pytest.mark.parametrize("status", [400, 422])
def test_server_that_refuses_usage_options_is_called_again_without_them(status: int) -> None:
    server = Server(lambda options: status if options else 200)
    assert server.call() == 200
    assert server.sent == [ASKED, None]
    assert server.call() == 200
    assert server.sent == [ASKED, None, None]
    # Another model of a server may be of another kind.
    assert server.call(target=TARGET._replace(model="another")) == 200
    assert server.sent[3:] == [ASKED, None]
    # So may a server whose settings have changed.
    assert server.call(target=TARGET._replace(fingerprint="b")) == 200
    assert server.sent[5:] == [ASKED, None]


def test_first_error_is_returned_if_both_requests_fail() -> None:
    server = Server(lambda options: 422 if options else 400)
    assert [server.call(), server.call()] == [422, 422]
    assert server.sent == [ASKED, None] * 2


def test_failure_of_the_second_request_changes_nothing() -> None:
    server = Server(lambda options: 400 if options else 0)
    assert server.call() == 400
    assert server.sent == [ASKED, None]
    assert circuit_breaker.breaker_for("a").takes_stream_options == {}


def test_server_that_accepts_usage_options_is_not_called_twice() -> None:
    statuses = [200, 400]
    server = Server(lambda _: statuses.pop(0))
    assert [server.call(), server.call()] == [200, 400]
    assert server.sent == [ASKED, ASKED]


def test_options_of_the_caller_may_be_the_mistake() -> None:
    server = Server(lambda options: 400 if options else 200)
    assert server.call(', "stream_options": {"include_obfuscation": false}') == 400
    assert server.sent == [{"include_obfuscation": False, "include_usage": True}]


@pytest.mark.parametrize("status", [200, 400, 503])
def test_operator_can_switch_it_off(status: int) -> None:
    server = Server(lambda _: status)
    off = TARGET._replace(takes_stream_options=False)
    assert server.call(target=off) == status
    assert server.call(', "stream_options": {"include_obfuscation": false}', off) == status
    assert server.sent == [None, {"include_obfuscation": False}]


def test_other_failures_are_not_repeated_here() -> None:
    server = Server(lambda _: 503)
    assert server.call() == 503
    assert server.sent == [ASKED]

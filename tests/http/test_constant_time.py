"""Constant-time responses: they are sent at multiples of INTERVAL_SECONDS."""

import asyncio

import pytest

from keyportal.http.constant_time import INTERVAL_SECONDS, ConstantTimeMiddleware
from keyportal.http.types import Message, Receive, Scope, Send
from tests.support import fake_time
from tests.support.asgi import Client, scope


def seconds(work: float, method: str = "POST") -> float:
    """How long the response takes if the application takes `work` seconds."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(work)
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    client, constant = Client(), ConstantTimeMiddleware(app)
    took = fake_time.run(constant(scope("/leaks/report", method), client.receive, client.send))
    assert client.body == b"ok"
    return took


@pytest.mark.parametrize(
    ("work", "intervals"),
    [(0, 1), (0.01, 1), (0.9, 1), (0.999, 1), (1.001, 2), (2.5, 3)],
)
def test_responses_are_sent_at_the_end_of_an_interval(work: float, intervals: int) -> None:
    assert seconds(work * INTERVAL_SECONDS) == pytest.approx(intervals * INTERVAL_SECONDS, abs=1e-6)


def test_get_is_not_delayed() -> None:
    assert seconds(0.01, "GET") == pytest.approx(0.01)


def test_application_returns_before_its_response_is_delayed() -> None:
    """Until it returns, Django keeps a thread and a database connection."""
    events: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
        events.append("returned")

    async def send(message: Message) -> None:
        events.append(message["type"])

    client = Client()
    asyncio.run(ConstantTimeMiddleware(app)(scope("/leaks/report", "POST"), client.receive, send))
    assert events == ["returned", "http.response.start", "http.response.body"]

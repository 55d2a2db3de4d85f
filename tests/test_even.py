"""Answers whose time tells nothing."""

import asyncio
import time

import pytest

from keyportal import even
from keyportal.asgi_types import Message, Receive, Scope, Send
from keyportal.even import Even
from tests.asgi import Client, scope


def seconds(work: float, method: str = "POST") -> float:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(work)
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    client = Client()
    began = time.perf_counter()
    asyncio.run(Even(app)(scope("/leaks/report", method), client.receive, client.send))
    assert client.body == b"ok"
    return time.perf_counter() - began


@pytest.mark.parametrize("work", [0, 0.05, 0.15])
def test_quick_and_slow_answers_go_out_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch, work: float
) -> None:
    monkeypatch.setattr(even, "STRETCH_SECONDS", 0.3)
    assert 0.3 <= seconds(work) < 0.5


def test_what_takes_longer_waits_for_the_end_of_its_stretch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(even, "STRETCH_SECONDS", 0.2)
    assert 0.4 <= seconds(0.25) < 0.6


def test_a_page_that_is_only_read_does_not_wait() -> None:
    assert seconds(0, "GET") < even.STRETCH_SECONDS


def test_the_application_is_over_before_its_answer_waits() -> None:
    """Until then Django keeps a thread for it, and more."""
    events: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
        events.append("over")

    async def send(message: Message) -> None:
        events.append(message["type"])

    client = Client()
    asyncio.run(Even(app)(scope("/leaks/report", "POST"), client.receive, send))
    assert events == ["over", "http.response.start", "http.response.body"]

"""Answers whose time tells nothing."""

import asyncio
import selectors

import pytest

from keyportal.http.constant_time import INTERVAL_SECONDS, ConstantTimeMiddleware
from keyportal.http.types import Message, Receive, Scope, Send
from tests.support.asgi import Client, scope


class Selector(selectors.DefaultSelector):
    """Waits for nothing, and lets its clock go on by as much."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """Its time is the selector's, so a busy machine takes none of it."""

    def __init__(self) -> None:
        self._clock = Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def seconds(work: float, method: str = "POST") -> float:
    """How long the answer takes of whose application takes `work`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(work)
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def answer() -> float:
        await ConstantTimeMiddleware(app)(
            scope("/leaks/report", method), client.receive, client.send
        )
        return asyncio.get_running_loop().time()

    client = Client()
    with asyncio.Runner(loop_factory=Loop) as runner:
        took = runner.run(answer())
    assert client.body == b"ok"
    return took


@pytest.mark.parametrize(
    ("work", "stretches"),
    [(0, 1), (0.01, 1), (0.9, 1), (0.999, 1), (1.001, 2), (2.5, 3)],
)
def test_answers_go_out_at_the_end_of_a_stretch(work: float, stretches: int) -> None:
    assert seconds(work * INTERVAL_SECONDS) == pytest.approx(stretches * INTERVAL_SECONDS, abs=1e-6)


def test_a_page_that_is_only_read_does_not_wait() -> None:
    assert seconds(0.01, "GET") == pytest.approx(0.01)


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
    asyncio.run(ConstantTimeMiddleware(app)(scope("/leaks/report", "POST"), client.receive, send))
    assert events == ["over", "http.response.start", "http.response.body"]

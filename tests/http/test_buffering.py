"""RequestBuffer: it reads bodies completely and limits concurrency before a thread is used."""

import asyncio
from collections.abc import Callable

import pytest

from keyportal.http import buffering, requests
from keyportal.http.buffering import MAX_CONCURRENT, MAX_FORM_BYTES, RequestBuffer
from keyportal.http.types import Headers, Message, Receive, Scope, Send
from tests.support.asgi import Client, scope


class App:
    """An application that records the bodies it receives. With an event, it responds when that is
    set."""

    def __init__(self, release: asyncio.Event | None = None) -> None:
        self.bodies: list[bytes] = []
        self.running = 0
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.running += 1
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        if self._release:
            await self._release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
        self.running -= 1


def start(
    buffer: RequestBuffer, client: Client, headers: Headers | None = None
) -> asyncio.Task[None]:
    return asyncio.create_task(
        _run(buffer, scope("/f", "POST", headers), client.receive, client.send)
    )


async def _run(buffer: RequestBuffer, scope: Scope, receive: Receive, send: Send) -> None:
    await buffer(scope, receive, send)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise TimeoutError


def post(headers: Headers, *parts: bytes | None, pause: float = 0) -> tuple[App, Client]:
    async def run() -> tuple[App, Client]:
        app, client = App(), Client(*parts, pause=pause)
        await start(RequestBuffer(app), client, headers)
        return app, client

    return asyncio.run(run())


@pytest.mark.parametrize("headers", [[], [(b"content-length", str(MAX_FORM_BYTES).encode())]])
def test_complete_form_reaches_the_application(headers: Headers) -> None:
    app, client = post(headers, b"name=", b"test-key")
    assert app.bodies == [b"name=test-key"]
    assert client.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", str(MAX_FORM_BYTES + 1).encode())],
        [(b"content-length", b"-1")],
        [(b"content-length", b"many")],
        [(b"content-length", b"1" * 5000)],
        [(b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"chunked"), (b"content-length", b"1")],
    ],
)
def test_body_that_is_too_large_or_of_unknown_length_is_refused(headers: Headers) -> None:
    """The rest is read after the response, or the client would never see the error."""
    app, client = post(headers, b"name=", b"test-key")
    assert not app.bodies
    assert not client.parts
    assert client.status == 413
    assert client.headers[b"x-content-type-options"] == b"nosniff"
    assert client.headers[b"connection"] == b"close"
    assert client.headers[b"content-length"] == str(len(client.body)).encode()


def test_slow_form_is_refused_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering, "FORM_SECONDS", 0.05)
    monkeypatch.setattr(requests, "DRAIN_SECONDS", 0.05)
    app, client = post([], *[b"x"] * 100, pause=0.02)
    assert not app.bodies
    assert client.status == 408
    assert client.headers[b"connection"] == b"close"


def test_application_is_told_that_the_client_disconnected() -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([await receive(), await receive()])

    async def run() -> None:
        client = Client(b"name=", None)
        await RequestBuffer(app)(scope("/f", "POST"), client.receive, client.send)

    asyncio.run(run())
    assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]


def test_number_of_concurrent_requests_is_limited() -> None:
    async def run() -> None:
        release = asyncio.Event()
        app = App(release)
        buffer = RequestBuffer(app)
        clients = [Client() for _ in range(MAX_CONCURRENT + 3)]
        tasks = [start(buffer, client) for client in clients]
        await until(lambda: app.running == MAX_CONCURRENT)
        for _ in range(50):
            await asyncio.sleep(0)
        assert app.running == MAX_CONCURRENT
        release.set()
        await asyncio.gather(*tasks)
        assert [client.status for client in clients] == [200] * len(clients)

    asyncio.run(run())


def test_too_many_waiting_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering, "MAX_WAITING", 2)

    async def run() -> None:
        release = asyncio.Event()
        app = App(release)
        buffer = RequestBuffer(app)
        running = [start(buffer, Client()) for _ in range(MAX_CONCURRENT)]
        await until(lambda: app.running == MAX_CONCURRENT)
        clients = [Client() for _ in range(3)]
        waiting = [start(buffer, client) for client in clients]
        await until(lambda: any(task.done() for task in waiting))
        release.set()
        await asyncio.gather(*running, *waiting)
        assert sorted(client.status for client in clients) == [200, 200, 503]

    asyncio.run(run())


def test_slow_readers_keep_no_slot() -> None:
    """None of the running requests' responses is read, and the next request is served."""

    async def run() -> None:
        buffer = RequestBuffer(App())
        never = asyncio.Event()

        async def send_forever(message: Message) -> None:
            await never.wait()

        slow = [
            asyncio.create_task(_run(buffer, scope("/f"), Client().receive, send_forever))
            for _ in range(MAX_CONCURRENT)
        ]
        fast = Client()
        async with asyncio.timeout(60):
            await start(buffer, fast)
        assert fast.status == 200
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(run())


def test_failing_request_releases_its_slot() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError

    async def run() -> None:
        buffer = RequestBuffer(fails)
        for _ in range(MAX_CONCURRENT + 1):
            async with asyncio.timeout(60):
                with pytest.raises(RuntimeError):
                    await start(buffer, Client())

    asyncio.run(run())

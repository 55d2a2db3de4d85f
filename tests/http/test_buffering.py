"""The forecourt: what a form must get past before it may have one of the portal's threads."""

import asyncio
from collections.abc import Callable

import pytest

from keyportal.http import buffering, requests
from keyportal.http.buffering import MAX_CONCURRENT, MAX_FORM_BYTES, RequestBuffer
from keyportal.http.types import Headers, Message, Receive, Scope, Send
from tests.support.asgi import Client, scope


class Room:
    """A portal that keeps what it was sent; with a lock, it answers when the lock is opened."""

    def __init__(self, lock: asyncio.Event | None = None) -> None:
        self.forms: list[bytes] = []
        self.inside = 0
        self._lock = lock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inside += 1
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.forms.append(body)
        if self._lock:
            await self._lock.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
        self.inside -= 1


def enter(
    forecourt: RequestBuffer, client: Client, headers: Headers | None = None
) -> asyncio.Task[None]:
    return asyncio.create_task(
        _enter(forecourt, scope("/f", "POST", headers), client.receive, client.send)
    )


async def _enter(forecourt: RequestBuffer, scope: Scope, receive: Receive, send: Send) -> None:
    await forecourt(scope, receive, send)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise TimeoutError


def post(headers: Headers, *parts: bytes | None, pause: float = 0) -> tuple[Room, Client]:
    async def run() -> tuple[Room, Client]:
        room, client = Room(), Client(*parts, pause=pause)
        await enter(RequestBuffer(room), client, headers)
        return room, client

    return asyncio.run(run())


@pytest.mark.parametrize("headers", [[], [(b"content-length", str(MAX_FORM_BYTES).encode())]])
def test_a_form_passes_whole(headers: Headers) -> None:
    room, client = post(headers, b"name=", b"test-key")
    assert room.forms == [b"name=test-key"]
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
def test_a_body_that_is_too_large_or_does_not_say_is_refused(headers: Headers) -> None:
    """And read to its end after that: whoever still sends would never see why it was refused."""
    room, client = post(headers, b"name=", b"test-key")
    assert not room.forms
    assert not client.parts
    assert client.status == 413
    assert client.headers[b"connection"] == b"close"
    assert client.headers[b"content-length"] == str(len(client.body)).encode()


def test_a_form_that_trickles_never_gets_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering, "FORM_SECONDS", 0.05)
    monkeypatch.setattr(requests, "DRAIN_SECONDS", 0.05)
    room, client = post([], *[b"x"] * 100, pause=0.02)
    assert not room.forms
    assert client.status == 408
    assert client.headers[b"connection"] == b"close"


def test_a_sender_who_hangs_up_is_passed_on_as_gone() -> None:
    seen: list[Message] = []

    async def listens(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([await receive(), await receive()])

    async def run() -> None:
        client = Client(b"name=", None)
        await RequestBuffer(listens)(scope("/f", "POST"), client.receive, client.send)

    asyncio.run(run())
    assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]


def test_only_so_many_are_inside_and_the_rest_wait_their_turn() -> None:
    async def run() -> None:
        lock = asyncio.Event()
        room = Room(lock)
        forecourt = RequestBuffer(room)
        clients = [Client() for _ in range(MAX_CONCURRENT + 3)]
        tasks = [enter(forecourt, client) for client in clients]
        await until(lambda: room.inside == MAX_CONCURRENT)
        for _ in range(50):
            await asyncio.sleep(0)
        assert room.inside == MAX_CONCURRENT
        lock.set()
        await asyncio.gather(*tasks)
        assert [client.status for client in clients] == [200] * len(clients)

    asyncio.run(run())


def test_a_crowd_that_waits_is_not_joined_by_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering, "MAX_WAITING", 2)

    async def run() -> None:
        lock = asyncio.Event()
        room = Room(lock)
        forecourt = RequestBuffer(room)
        inside = [enter(forecourt, Client()) for _ in range(MAX_CONCURRENT)]
        await until(lambda: room.inside == MAX_CONCURRENT)
        waiting = [enter(forecourt, Client()) for _ in range(2)]
        await until(lambda: forecourt._waiting == 2)
        late = Client()
        await enter(forecourt, late)
        assert late.status == 503
        lock.set()
        await asyncio.gather(*inside, *waiting)

    asyncio.run(run())


def test_whoever_reads_slowly_keeps_nobody_out() -> None:
    """The answers of all that were let in are never read, and the next person is served."""

    async def run() -> None:
        forecourt = RequestBuffer(Room())
        never = asyncio.Event()

        async def stuck(message: Message) -> None:
            await never.wait()

        slow = [
            asyncio.create_task(_enter(forecourt, scope("/f"), Client().receive, stuck))
            for _ in range(MAX_CONCURRENT)
        ]
        quick = Client()
        async with asyncio.timeout(30):
            await enter(forecourt, quick)
        assert quick.status == 200
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(run())


def test_a_page_that_fails_gives_its_place_back() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError

    async def run() -> None:
        forecourt = RequestBuffer(fails)
        for _ in range(MAX_CONCURRENT + 1):
            async with asyncio.timeout(30):
                with pytest.raises(RuntimeError):
                    await enter(forecourt, Client())

    asyncio.run(run())

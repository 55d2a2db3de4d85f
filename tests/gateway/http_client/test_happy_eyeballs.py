"""Hosts with several addresses: the next one is tried soon, and what works is remembered."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from keyportal.gateway.http_client import happy_eyeballs
from keyportal.gateway.http_client.client import Client, parse_base_url
from keyportal.gateway.http_client.happy_eyeballs import ATTEMPT_DELAY_SECONDS, by_turns
from keyportal.gateway.http_client.messages import ConnectFailed, ConnectTimeout, Origin

pytestmark = pytest.mark.allow_hosts([f"127.0.0.{number}" for number in range(1, 9)])
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK"
DEAF = ("127.0.0.3", "127.0.0.4")


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"{}")
    writer.write(OK)
    writer.close()


@contextmanager
def deaf(address: str, port: int = 0) -> Iterator[int]:
    """Listens with a full queue, so that connections are never opened. Yields the port."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((address, port))
        yield port


class ClientOf(Client):
    """A client for which every name has these addresses."""

    def __init__(self, *addresses: str) -> None:
        super().__init__()
        self._addresses = addresses

    async def _resolve(self, origin: Origin) -> list[str]:
        return list(self._addresses)


async def call(client: Client, port: int, connect_timeout: float = 60) -> float:
    """Seconds that a call on a new connection takes."""
    began = time.monotonic()
    response = await client.send(
        parse_base_url(f"http://models.example:{port}/v1"),
        "/chat/completions",
        [],
        b"{}",
        connect_timeout=connect_timeout,
        first_byte_timeout=60,
        read_timeout=60,
    )
    assert await response.read() == b"OK"
    return time.monotonic() - began


async def closed(open_before: int) -> None:
    """Wait until no more files are open than before. TimeoutError if one stays open."""
    async with asyncio.timeout(60):
        while open_files() != open_before:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)


def open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run on either event loop: the server runs on uvloop."""

    def run(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(work, 120))

    return run


@pytest.mark.parametrize(
    ("addresses", "ordered"),
    [
        (["1.1.1.1", "1.1.1.2"], ["1.1.1.1", "1.1.1.2"]),
        (["::1", "::2", "::3", "1.1.1.1"], ["::1", "1.1.1.1", "::2", "::3"]),
        (["1.1.1.1", "1.1.1.2", "::1", "::2"], ["1.1.1.1", "::1", "1.1.1.2", "::2"]),
    ],
)
def test_families_take_turns(addresses: list[str], ordered: list[str]) -> None:
    assert by_turns(addresses) == ordered


def test_dead_address_costs_a_quarter_of_a_second_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = ClientOf(DEAF[0], "127.0.0.1")
        with deaf(DEAF[0], port):
            before = open_files()
            assert await call(client, port) >= ATTEMPT_DELAY_SECONDS
            # If the dead one were tried first again, this would be a timeout.
            monkeypatch.setattr(happy_eyeballs, "ATTEMPT_DELAY_SECONDS", 60)
            await call(client, port)
            await closed(before)
        server.close()

    run(work())


def test_refused_address_costs_no_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happy_eyeballs, "ATTEMPT_DELAY_SECONDS", 60)

    async def work() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        client = ClientOf("127.0.0.5", "127.0.0.6", "127.0.0.1")
        await call(client, server.sockets[0].getsockname()[1])
        server.close()

    run(work())


def test_first_attempt_goes_on_while_others_are_made(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow server is not given up after the delay."""

    async def work() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = ClientOf("127.0.0.1", DEAF[0], DEAF[1])
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        class Slow:
            def __getattr__(self, name: str) -> Any:
                return getattr(loop, name)

            async def sock_connect(self, opened: socket.socket, address: Any) -> None:
                if address[0] == "127.0.0.1":
                    await asyncio.sleep(0.6)
                await connect(opened, address)

        with deaf(DEAF[0], port), deaf(DEAF[1], port):
            monkeypatch.setattr(asyncio, "get_running_loop", Slow)
            assert await call(client, port) >= 0.6
            monkeypatch.undo()
        server.close()

    run(work())


def test_dead_addresses_are_a_timeout_that_leaves_no_socket_open(run: Run) -> None:
    async def work() -> None:
        with deaf(DEAF[0]) as port, deaf(DEAF[1], port):
            before = open_files()
            with pytest.raises(ConnectTimeout):
                await call(ClientOf(*DEAF), port, connect_timeout=0.4)
            await closed(before)

    run(work())


def test_cancelled_caller_leaves_no_socket_open(run: Run) -> None:
    async def work() -> None:
        with deaf(DEAF[0]) as port, deaf(DEAF[1], port):
            before = open_files()
            task = asyncio.create_task(call(ClientOf(*DEAF), port))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await closed(before)

    run(work())


def test_sockets_of_attempts_that_succeed_together_are_closed(run: Run) -> None:
    async def work() -> None:
        server = await asyncio.start_server(answer, "0.0.0.0", 0)
        port = server.sockets[0].getsockname()[1]
        client = ClientOf(*[f"127.0.0.{number}" for number in range(1, 9)])
        before = open_files()
        await call(client, port)
        await closed(before)
        server.close()

    run(work())


def test_all_refused_is_connect_failed(run: Run) -> None:
    async def work() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            with pytest.raises(ConnectFailed, match="ConnectionRefusedError"):
                await call(ClientOf("127.0.0.1", "127.0.0.5"), port)

    run(work())


def test_name_without_an_address_is_connect_failed(run: Run) -> None:
    async def work() -> None:
        with pytest.raises(ConnectFailed, match="no address"):
            await call(ClientOf(), 80)

    run(work())


def test_address_that_fails_in_tls_does_not_hide_one_that_works(
    monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    async def work() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        other = await asyncio.start_server(
            answer, "127.0.0.2", port := server.sockets[0].getsockname()[1]
        )
        client = ClientOf("127.0.0.2", "127.0.0.1")
        opens = client._open

        async def fail(origin: Origin, opened: socket.socket) -> Any:
            if opened.getpeername()[0] == "127.0.0.2":
                opened.close()
                raise ConnectionResetError
            return await opens(origin, opened)

        monkeypatch.setattr(client, "_open", fail)
        await call(client, port)
        assert [*client._working.values()] == ["127.0.0.1"]
        server.close()
        other.close()

    run(work())


def test_small_writes_are_not_delayed(run: Run) -> None:
    async def work() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connection = await ClientOf("127.0.0.1")._connect(Origin(False, "h", port), 20)
        opened = connection._transport.get_extra_info("socket")
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.abort()
        server.close()

    run(work())

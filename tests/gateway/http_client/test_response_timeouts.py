"""How long a server may be silent, before and during its response."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from keyportal.gateway.http_client import connection
from keyportal.gateway.http_client.client import Client, parse_base_url
from keyportal.gateway.http_client.messages import (
    ConnectTimeout,
    ReadTimeout,
    StreamedBody,
)
from tests.support import fake_time
from tests.support.scripted_server import (
    ScriptedServer,
    ask,
    post,
    read_request,
    run,
)


def test_silence_before_and_during_response_is_a_read_timeout() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"
    for answer, timeout in ((b"", "first_byte_timeout"), (half, "read_timeout")):
        began = time.monotonic()
        with pytest.raises(ReadTimeout):
            ask(answer, close=False, **{timeout: 0.2})
        assert time.monotonic() - began > 0.15


@pytest.mark.parametrize("piece", [b"HTTP/1.1 100 Continue\r\n\r\n", b"H", b""])
def test_head_must_be_complete_in_time(piece: bytes) -> None:
    """Attack: a head that comes byte by byte, or interim responses, without an end."""

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"" if piece.endswith(b"\n") else b"HTTP/1.1 200 OK\r\nA: ")
            while True:
                writer.write(piece)
                await asyncio.sleep(0.05)

        async with ScriptedServer(script) as address:
            with pytest.raises(ReadTimeout, match="did not begin"):
                await post(Client(), address, first_byte_timeout=0.3)

    run(work())


def test_time_to_the_first_byte_may_be_longer_than_silence_later() -> None:
    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await asyncio.sleep(0.4)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
            await reader.read()

        async with ScriptedServer(script) as address:
            response = await post(Client(), address, read_timeout=0.2)
            assert await response.next_chunk() == b"he"
            with pytest.raises(ReadTimeout, match="nothing for"):
                await response.next_chunk()

    run(work())


class Transport(asyncio.Transport):
    """To a server whose bytes the test gives to the connection itself, at times that it chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def write(self, data: object) -> None:
        pass

    def abort(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


async def begun(transport: Transport, body: bytes) -> connection.Connection:
    """A connection whose response has begun with this, and may be silent for 10 seconds."""
    loop, address = asyncio.get_running_loop(), parse_base_url("http://models.example/v1")
    begun = connection.Connection(loop, address.origin)
    begun.connection_made(transport)
    request = asyncio.create_task(begun.request(b"", b"", 5, 10))
    await asyncio.sleep(4)
    begun.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n" + body)
    await request
    return begun


def test_slow_response_without_silence_is_no_timeout() -> None:
    async def work() -> None:
        response = await begun(Transport(), b"a")
        for _ in range(20):
            assert await response.next_chunk() == b"a"
            await asyncio.sleep(9)
            response.data_received(b"a")
        await asyncio.sleep(11)
        response.data_received(b"a")
        assert await response.next_chunk() == b"aa"  # What had come before the silence.
        with pytest.raises(ReadTimeout, match="nothing for 10 s"):
            await response.next_chunk()

    fake_time.run(work())


def test_slow_reader_is_not_taken_for_a_silent_server() -> None:
    async def work() -> None:
        transport = Transport()
        response = await begun(transport, b"x" * 300_000)
        assert transport.calls == ["pause"]
        await asyncio.sleep(100)
        assert len(await response.next_chunk()) == 300_000
        assert transport.calls == ["pause", "resume"]
        await asyncio.sleep(9)
        response.data_received(b"x" * 100_000)
        assert len(await response.next_chunk()) == 100_000
        assert response.is_read

    fake_time.run(work())


def test_slow_reader_pauses_the_server() -> None:
    size = 8 * 1024 * 1024

    async def work() -> None:
        written = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // 65_536):
                writer.write(b"x" * 65_536)
                await writer.drain()
                written += 65_536

        async with ScriptedServer(script) as address:
            response = await post(Client(), address)
            while not response._connection._is_paused:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            waiting = response._connection._buffered_bytes
            assert waiting < connection.HIGH_WATER + 512 * 1024
            assert len(await response.read()) == size

    run(work())


def test_server_that_does_not_read_the_body_is_a_read_timeout() -> None:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(3)

        async with ScriptedServer(script) as address:
            with pytest.raises(ReadTimeout):
                await post(
                    Client(), address, StreamedBody(parts(), 1000 * 65_536), first_byte_timeout=0.3
                )

    run(work())


def test_slow_name_resolution_is_a_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        client = Client()

        async def getaddrinfo(*_: object, **__: object) -> list[tuple[Any, ...]]:
            await asyncio.sleep(10)
            return []

        monkeypatch.setattr(client._loop, "getaddrinfo", getaddrinfo)
        with pytest.raises(ConnectTimeout):
            await post(client, parse_base_url("http://slow.example.com/v1"), connect_timeout=0.1)

    run(work())

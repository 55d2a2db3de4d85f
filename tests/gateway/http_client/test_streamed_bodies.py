"""Request bodies that are sent chunk by chunk, and responses that come before their end."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from keyportal.gateway.http_client.client import Client
from keyportal.gateway.http_client.messages import (
    ProtocolError,
    StreamedBody,
)
from tests.support.scripted_server import (
    OK,
    ScriptedServer,
    post,
    read_request,
    run,
)


@pytest.mark.parametrize(("length", "is_sent"), [(6, True), (5, False), (7, False)])
def test_streamed_body_must_have_its_declared_length(length: int, is_sent: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async def work() -> None:
        seen: list[bytes] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await read_request(reader))
            writer.write(OK)
            await reader.read()

        async with ScriptedServer(script) as address:
            client = Client()
            body = StreamedBody(parts(), length)
            if is_sent:
                assert await (await post(client, address, body)).read() == b"hello"
                assert seen[0].endswith(b"Content-Length: 6\r\n\r\nonetwo")
            else:
                with pytest.raises(ProtocolError):
                    await post(client, address, body)
            # A connection with an incomplete or overlong request is not reused.
            assert bool(client._idle) is is_sent

    run(work())


def test_early_response_stops_the_upload() -> None:
    sent = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b"x" * 65_536
            await asyncio.sleep(0.001)

    async def work() -> None:
        refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(refusal)
            while await reader.read(65_536):
                pass

        upstream = ScriptedServer(script)
        async with upstream as address:
            client = Client()
            response = await post(client, address, StreamedBody(parts(), 1000 * 65_536))
            assert (response.status, await response.read()) == (413, b"no")
            assert not client._idle  # It carries an incomplete request.

    run(work())
    assert sent < 900


def test_connection_is_not_reused_after_an_early_response_to_an_upload() -> None:
    """Also if the upload ends before the response is read: the server may have stopped reading,
    and take the rest of the body for the next request.
    """

    async def work() -> None:
        may_end = asyncio.Event()

        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            await may_end.wait()
            yield b"two"

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"one")
            writer.write(OK)
            await reader.read()

        async with ScriptedServer(script) as address:
            client = Client()
            response = await post(client, address, StreamedBody(parts(), 6))
            task = response._connection._send_task
            assert task is not None
            may_end.set()
            await task
            assert await response.read() == b"hello"
            assert not client._idle

    run(work())


def test_connection_is_not_reused_after_an_early_response_to_a_large_body() -> None:
    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await asyncio.sleep(60)

        async with ScriptedServer(script) as address:
            client = Client()
            response = await post(client, address, b"x" * 32 * 1024 * 1024)
            assert await response.read() == b"hello"
            assert not client._idle

    run(work())


def test_refusal_during_a_paused_upload_is_returned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1024 * 1024

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.2)
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
            await writer.drain()
            await asyncio.sleep(0.2)

        async with ScriptedServer(script) as address:
            response = await post(Client(), address, StreamedBody(parts(), 1000 * 65_536))
            assert (response.status, await response.read()) == (413, b"no")
            await asyncio.sleep(0.3)

    run(work())
    assert not caplog.records

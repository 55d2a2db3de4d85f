"""A server on loopback whose responses are scripted, and the HTTP client's calls to it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from keyportal.gateway.http_client.client import Address, Client, Response, parse_base_url
from keyportal.gateway.http_client.messages import (
    Body,
)

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class ScriptedServer:
    """A server that runs the script for each connection and counts connections."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections = 0
        self.requests: list[bytes] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def __aenter__(self) -> Address:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return parse_base_url(f"http://127.0.0.1:{port}/v1/")

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def answering(*answers: bytes, close: bool = False) -> Script:
    """Answer each request on a connection with the next of `answers`; then stay silent."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()
        if not close:
            await reader.read()

    return script


def in_pieces(answer: bytes, size: int) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for start in range(0, len(answer), size):
            writer.write(answer[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)

    return script


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120):
            await work

    asyncio.run(bounded())


async def post(
    client: Client, address: Address, body: Body = b"{}", read_timeout: float = 60, **more: Any
) -> Response:
    return await client.send(
        address,
        "/chat/completions",
        more.pop("headers", [(b"accept", b"*/*")]),
        body,
        connect_timeout=more.pop("connect_timeout", 60),
        first_byte_timeout=more.pop("first_byte_timeout", 60),
        read_timeout=read_timeout,
        **more,
    )


def ask(answer: bytes, *, close: bool = False, **timeouts: Any) -> tuple[Response, bytes]:
    """Send a request, answer it with `answer`, and return what the client reads."""
    got: list[tuple[Response, bytes]] = []

    async def work() -> None:
        client = Client()
        async with ScriptedServer(answering(answer, close=close)) as address:
            response = await post(client, address, **timeouts)
            got.append((response, await response.read()))
        client.close()

    run(work())
    return got[0]

"""The HTTP protocol of one connection: flow control and limits."""

import asyncio
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from keyportal.http.types import Message, Receive, Scope, Send
from keyportal.server.protocol import MAX_HEAD_BYTES, Protocol

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.pauses = [False]
        self.written = b""

    def pause_reading(self) -> None:
        self.pauses.append(True)

    def resume_reading(self) -> None:
        self.pauses.append(False)

    def write(self, data: Any) -> None:
        self.written += data

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


async def wait_forever(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.get_running_loop().create_future()


def connect() -> tuple[Protocol, Transport]:
    config = Config(wait_forever, http=Protocol, ws="none", interface="asgi3", log_config=None)
    protocol = Protocol(config=config, server_state=ServerState(), app_state={})
    transport = Transport()
    protocol.connection_made(transport)
    return protocol, transport


def test_reading_pauses_until_the_body_is_used() -> None:
    async def send_and_use() -> None:
        protocol, transport = connect()
        protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        protocol.data_received(b"x" * 60_000)
        assert transport.pauses == [False]
        protocol.data_received(b"x" * 60_000)
        assert transport.pauses == [False, True]
        message: Message = dict(await protocol.cycle.receive())
        assert len(message["body"]) == 120_000
        reading = asyncio.ensure_future(protocol.cycle.receive())
        await asyncio.sleep(0)
        assert transport.pauses == [False, True, False]
        reading.cancel()

    asyncio.run(send_and_use())


@pytest.mark.parametrize("piece", [b"X: x\r\n" * 100, b"x" * 600], ids=["many", "one long"])
def test_trailers_of_a_chunked_body_are_limited(piece: bytes) -> None:
    async def send() -> None:
        protocol, transport = connect()
        protocol.data_received(CHUNKED + b"2\r\n{}\r\n0\r\n")
        protocol.data_received(b"X: ")
        for _ in range(MAX_HEAD_BYTES // 600 - 1):
            protocol.data_received(piece)
        assert transport.written == b""
        for _ in range(2):
            protocol.data_received(piece)
        assert transport.written.startswith(b"HTTP/1.1 431 ")

    asyncio.run(send())

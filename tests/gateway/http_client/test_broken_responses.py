"""Responses that break HTTP: none is taken for a valid one, or for that of another request."""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from keyportal.gateway.http_client.client import Client
from keyportal.gateway.http_client.messages import (
    ProtocolError,
    TransportError,
)
from tests.support.scripted_server import (
    OK,
    Script,
    ScriptedServer,
    answering,
    ask,
    post,
    read_request,
    run,
)


def test_unrequested_bytes_are_not_the_next_response() -> None:
    async def work() -> None:
        poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
        is_poisoned = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await asyncio.sleep(0.05)
            writer.write(poison)
            is_poisoned.set()
            await answering(poison)(reader, writer)

        upstream = ScriptedServer(script)
        async with upstream as address:
            client = Client()
            await (await post(client, address)).read()
            await is_poisoned.wait()
            await asyncio.sleep(0.05)
            assert await (await post(client, address)).read() == b"hello"
        assert upstream.connections == 2

    run(work())


def test_second_response_to_one_request_is_dropped() -> None:
    async def work() -> None:
        upstream = ScriptedServer(answering(OK + OK.replace(b"hello", b"smugg"), OK))
        async with upstream as address:
            client = Client()
            for _ in range(2):
                response = await post(client, address)
                assert await response.read() == b"hello"
                assert [name for name, _ in response.headers] == [b"content-length"]
        assert upstream.connections == 2

    run(work())


@pytest.mark.parametrize(
    "answer",
    [
        b"This is not HTTP.\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK,
        b"HTTP/1.1 099 Odd\r\nContent-Length: 6\r\n\r\nbefore" + OK,
        b"HTTP/1.1 600 Odd\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + OK,
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"5" * 5001 + b"\r\n\r\nhello",
        b"HTTP/1.1 204 No Content\r\nContent-Length: " + b"5" * 5001 + b"\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: " + b"0" * 5001 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nnot said",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
    ids=[
        *("prose", "status", "length", "lengths", "chunk", "upgrade", "unasked upgrade"),
        *("status 099 with a body", "status 600", "status 999", "interim responses"),
        *("huge length", "huge length without a body", "long length"),
        *("gzip, chunked", "gzip and chunked", "gzip", "long", "many", "tls"),
    ],
)
def test_invalid_http_is_a_protocol_error(answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        ask(answer)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 099 Odd\r\n\r\n", "has status 99"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "Transfer codings"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\t\r\n\r\n", "Transfer codings"),
        (b"HTTP/1.1 204 None\r\nContent-Length: " + b"5" * 5001 + b"\r\n\r\n", "Content-Length"),
    ],
)
def test_error_says_what_is_wrong(answer: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        ask(answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length:  5  \r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding:  Chunked  \r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_white_space_around_values_is_ignored(answer: bytes) -> None:
    assert ask(answer)[1] == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ],
)
def test_incomplete_response_is_an_error_after_its_bytes(answer: bytes) -> None:
    async def work() -> None:
        async with ScriptedServer(answering(answer, close=True)) as address:
            response = await post(Client(), address)
            assert await response.next_chunk() in {b"half", b"hello", b"hel"}
            with pytest.raises(ProtocolError):
                await response.next_chunk()

    run(work())


@given(st.binary(max_size=200))
@hypothesis_settings(max_examples=50)
def test_any_bytes_raise_only_transport_errors(answer: bytes) -> None:
    with contextlib.suppress(TransportError):
        ask(b"HTTP/1.1 200 OK\r\n" + answer, close=True)


def endless(start: bytes, repeated: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(start)
        while True:
            writer.write(repeated)
            await writer.drain()

    return script


@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        (b"0\r\nA: ", b"x" * 1000),
        (b"0\r\n", b"A: b\r\n" * 100),
        (b"1\r\na\r\n1;", b"x" * 1000),
        (b"", b"1;" + b"x" * 1000 + b"\r\na\r\n"),
    ],
    ids=["a trailer", "trailers", "a chunk extension", "chunk extensions"],
)
def test_framing_without_end_is_a_protocol_error(start: bytes, repeated: bytes) -> None:
    """Attack: it is never silent, and httptools copies a trailer anew with each piece."""

    async def work() -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        async with ScriptedServer(endless(head + start, repeated)) as address:
            response = await post(Client(), address)
            with pytest.raises(ProtocolError, match="too little body"):
                await response.read()
            assert not response._connection.is_open

    run(work())


def test_body_in_chunks_of_one_byte_is_read() -> None:
    size = 50_000
    _, body = ask(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\na\r\n" * size
        + b"0\r\n\r\n"
    )
    assert body == b"a" * size

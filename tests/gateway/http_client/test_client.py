"""The HTTP client, against servers with scripted responses, valid and invalid."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from keyportal.gateway.http_client import client as module
from keyportal.gateway.http_client import connection
from keyportal.gateway.http_client.client import Address, Client, Response, parse_base_url
from keyportal.gateway.http_client.messages import (
    Body,
    ConnectFailed,
    ConnectTimeout,
    Origin,
    ProtocolError,
    ReadTimeout,
    ServerDisconnected,
    StreamedBody,
    TransportError,
)

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Upstream:
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
        async with asyncio.timeout(60):
            await work

    asyncio.run(bounded())


async def post(
    client: Client, address: Address, body: Body = b"{}", read_timeout: float = 30, **more: Any
) -> Response:
    return await client.send(
        address,
        "/chat/completions",
        more.pop("headers", [(b"accept", b"*/*")]),
        body,
        connect_timeout=more.pop("connect_timeout", 30),
        first_byte_timeout=more.pop("first_byte_timeout", 30),
        read_timeout=read_timeout,
        **more,
    )


def ask(answer: bytes, *, close: bool = False, **timeouts: Any) -> tuple[Response, bytes]:
    """Send a request, answer it with `answer`, and return what the client reads."""
    got: list[tuple[Response, bytes]] = []

    async def work() -> None:
        client = Client()
        async with Upstream(answering(answer, close=close)) as address:
            response = await post(client, address, **timeouts)
            got.append((response, await response.read()))
        client.close()

    run(work())
    return got[0]


def test_a_plain_answer_is_read() -> None:
    response, body = ask(
        b"HTTP/1.1 201 Made\r\nX-One: a\r\nx-one: b\r\nContent-Length: 5\r\n\r\nhello"
    )
    assert (response.status, body, response.length) == (201, b"hello", 5)
    assert response.headers[:2] == [(b"x-one", b"a"), (b"x-one", b"b")]


def test_request_bytes() -> None:
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(OK)

    async def work() -> None:
        async with Upstream(script) as address:
            await (await post(Client(), address, b'{"a": 1}')).read()
            host = address.origin.authority.encode()
            assert seen == [
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: " + host + b"\r\naccept: */*\r\n"
                b'Content-Length: 8\r\n\r\n{"a": 1}'
            ]

    run(work())


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_request_without_a_body_has_no_length(method: str) -> None:
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    async def work() -> None:
        async with Upstream(script) as address:
            response = await post(Client(), address, b"", method=method)
            assert await response.read() == b"hello"
        assert seen[0].startswith(method.encode() + b" /v1/chat/completions HTTP/1.1\r\n")
        assert b"content-length" not in seen[0].lower()

    run(work())


@pytest.mark.parametrize(
    ("base", "target"),
    [
        ("http://127.0.0.1:1/v1", "/v1/responses/resp_1?limit=2"),
        ("http://127.0.0.1:1/v1?api-version=1", "/v1/responses/resp_1?api-version=1&limit=2"),
    ],
)
def test_query_of_a_request_follows_that_of_the_base_url(base: str, target: str) -> None:
    address = parse_base_url(base).with_query("limit=2")
    assert f"{address.path}/responses/resp_1{address.query}" == target


def test_chunks_are_put_together() -> None:
    _, body = ask(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    )
    assert body == b"abcde"


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    response, body = ask(b"HTTP/1.1 200 OK\r\n\r\nall there is", close=True)
    assert (response.length, body) == (None, b"all there is")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_some_answers_have_no_body(status: bytes) -> None:
    assert ask(b"HTTP/1.1 " + status + b"\r\n\r\n")[1] == b""


def test_interim_answers_are_passed_over() -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK
    response, body = ask(answer)
    assert (response.status, body) == (200, b"hello")
    assert (b"link", b"x") not in response.headers


@given(size=st.integers(1, 60))
@hypothesis_settings(max_examples=20)
def test_it_does_not_matter_how_the_network_cuts(size: int) -> None:
    async def work() -> None:
        client = Client()
        answer = (
            b"HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"
        )
        async with Upstream(in_pieces(answer, size)) as address:
            response = await post(client, address)
            assert await response.read() == b"hello, world"
        client.close()

    run(work())


def test_each_chunk_is_returned_when_it_arrives() -> None:
    async def work() -> None:
        go_on = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
            await go_on.wait()
            writer.write(b"1\r\nb\r\n0\r\n\r\n")

        async with Upstream(script) as address:
            response = await post(Client(), address)
            assert await response.next_chunk() == b"a"
            go_on.set()
            assert await response.next_chunk() == b"b"
            assert await response.next_chunk() == b""
            assert await response.next_chunk() == b""

    run(work())


def test_connection_is_reused() -> None:
    async def work() -> None:
        client, upstream = Client(), Upstream(answering(*[OK] * 10))
        async with upstream as address:
            for _ in range(10):
                assert await (await post(client, address)).read() == b"hello"
        assert upstream.connections == 1
        client.close()

    run(work())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
def test_closing_connection_is_not_reused(answer: bytes) -> None:
    async def work() -> None:
        client, upstream = Client(), Upstream(answering(*[answer] * 2))
        async with upstream as address:
            for _ in range(2):
                assert await (await post(client, address)).read() == b"hello"
        assert upstream.connections == 2

    run(work())


def test_closed_idle_connection_fails_no_call() -> None:
    async def work() -> None:
        client, upstream = Client(), Upstream(answering(OK, close=True))
        async with upstream as address:
            for _ in range(5):
                # The server closes after each response, without announcing it.
                assert await (await post(client, address)).read() == b"hello"

    run(work())


def test_request_on_reused_connection_that_closes_is_repeated() -> None:
    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await read_request(reader)  # And closes without a response.

        client, upstream = Client(), Upstream(script)
        async with upstream as address:
            assert await (await post(client, address)).read() == b"hello"
            assert await (await post(client, address)).read() == b"hello"
        assert upstream.connections == 2

    run(work())


def test_request_on_new_connection_that_closes_is_not_repeated() -> None:
    async def work() -> None:
        upstream = Upstream(answering(b"", close=True))
        async with upstream as address:
            with pytest.raises(ServerDisconnected):
                await post(Client(), address)
        assert upstream.connections == 1

    run(work())


def test_request_is_not_repeated_after_the_first_byte() -> None:
    async def work() -> None:
        upstream = Upstream(answering(OK, b"HTTP/1.1 200", close=True))
        async with upstream as address:
            client = Client()
            await (await post(client, address)).read()
            with pytest.raises(ProtocolError):
                await post(client, address)
        assert upstream.connections == 1

    run(work())


def test_idle_connections_are_closed_before_their_servers_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.02)

    async def work() -> None:
        ended = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await answering(OK)(reader, writer)
            ended.set()

        client = Client()
        async with Upstream(script) as address:
            await (await post(client, address)).read()
            await asyncio.wait_for(ended.wait(), 30)
        assert not client._idle

    run(work())


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

        upstream = Upstream(script)
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
        upstream = Upstream(answering(OK + OK.replace(b"hello", b"smugg"), OK))
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
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ],
)
def test_incomplete_response_is_an_error_after_its_bytes(answer: bytes) -> None:
    async def work() -> None:
        async with Upstream(answering(answer, close=True)) as address:
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
        async with Upstream(endless(head + start, repeated)) as address:
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


def test_silence_before_and_during_response_is_a_read_timeout() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"
    for answer, timeout in ((b"", "first_byte_timeout"), (half, "read_timeout")):
        began = time.monotonic()
        with pytest.raises(ReadTimeout):
            ask(answer, close=False, **{timeout: 0.2})
        assert 0.15 < time.monotonic() - began < 20


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

        async with Upstream(script) as address:
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

        async with Upstream(script) as address:
            response = await post(Client(), address, read_timeout=0.2)
            assert await response.next_chunk() == b"he"
            with pytest.raises(ReadTimeout, match="nothing for"):
                await response.next_chunk()

    run(work())


def test_slow_response_without_silence_is_no_timeout() -> None:
    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(20):
                await asyncio.sleep(0.1)
                writer.write(b"1\r\na\r\n")
            writer.write(b"0\r\n\r\n")

        async with Upstream(script) as address:
            response = await post(Client(), address, read_timeout=1.5)
            assert await response.read() == b"a" * 20

    run(work())


def test_slow_reader_pauses_the_server_without_timeout() -> None:
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

        async with Upstream(script) as address:
            response = await post(Client(), address, read_timeout=1)
            await asyncio.sleep(2)
            waiting = response._connection._buffered_bytes
            assert waiting < connection.HIGH_WATER + 512 * 1024
            assert len(await response.read()) == size

    run(work())


def test_closing_stops_the_server() -> None:
    async def work() -> None:
        stopped = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
            await reader.read()
            stopped.set()

        async with Upstream(script) as address:
            response = await post(Client(), address)
            await response.next_chunk()
            response.close()
            await asyncio.wait_for(stopped.wait(), 2)

    run(work())


def test_closing_after_the_end_does_not_close_the_next_response() -> None:
    async def work() -> None:
        client = Client()
        async with Upstream(answering(OK, OK, OK)) as address:
            first = await post(client, address)
            await first.read()
            second = await post(client, address)
            first.close()
            assert await second.read() == b"hello"

    run(work())


@pytest.mark.parametrize("wait_for_head", [True, False])
def test_cancelled_caller_closes_the_connection(wait_for_head: bool) -> None:
    async def work() -> None:
        begun, stopped = asyncio.Event(), asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            if wait_for_head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
            begun.set()
            await reader.read()
            stopped.set()

        async def call(address: Address) -> None:
            await (await post(Client(), address)).read()

        async with Upstream(script) as address:
            task = asyncio.create_task(call(address))
            await begun.wait()
            await asyncio.sleep(0.1)  # Until the head has arrived.
            task.cancel()
            await stopped.wait()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(work())


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

        async with Upstream(script) as address:
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

        upstream = Upstream(script)
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

        async with Upstream(script) as address:
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

        async with Upstream(script) as address:
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

        async with Upstream(script) as address:
            response = await post(Client(), address, StreamedBody(parts(), 1000 * 65_536))
            assert (response.status, await response.read()) == (413, b"no")
            await asyncio.sleep(0.3)

    run(work())
    assert not caplog.records


def test_server_that_does_not_read_the_body_is_a_read_timeout() -> None:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(3)

        async with Upstream(script) as address:
            with pytest.raises(ReadTimeout):
                await post(
                    Client(), address, StreamedBody(parts(), 1000 * 65_536), first_byte_timeout=0.3
                )

    run(work())


@pytest.mark.parametrize("value", [b"a\r\nX-Evil: 1", b"a\nb", b"a\rb"])
def test_line_break_in_a_header_is_refused(value: bytes) -> None:
    async def work() -> None:
        async with Upstream(answering(OK)) as address:
            with pytest.raises(ProtocolError):
                await post(Client(), address, headers=[(b"accept", value)])

    run(work())


def test_closed_port_is_connect_failed() -> None:
    async def work() -> None:
        async with Upstream(answering(OK)) as address:
            pass
        with pytest.raises(ConnectFailed, match=str(address.origin.port)):
            await post(Client(), address)

    run(work())


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


def test_trailers_are_not_headers() -> None:
    response, body = ask(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nhi\r\n0\r\nRetry-After: 9\r\nContent-Type: text/html\r\n\r\n"
    )
    assert body == b"hi"
    assert [name for name, _ in response.headers] == [b"transfer-encoding"]


def test_forbidden_address_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check(address: str) -> None:
        if address != "10.0.0.1":
            raise OSError(None, "forbidden")

    async def work() -> None:
        client = Client(check)

        async def getaddrinfo(*_: object, **__: object) -> list[tuple[Any, ...]]:
            return [(2, 1, 6, "", ("10.0.0.1", 80)), (2, 1, 6, "", ("10.0.0.2", 80))]

        monkeypatch.setattr(client._loop, "getaddrinfo", getaddrinfo)
        with pytest.raises(ConnectFailed, match="forbidden"):
            await post(client, parse_base_url("http://models.example.com/v1"))

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


@pytest.mark.parametrize(
    ("base_url", "origin", "path", "query", "authority"),
    [
        ("http://h/v1", Origin(False, "h", 80), "/v1", "", "h"),
        ("http://h:8001/v1/", Origin(False, "h", 8001), "/v1", "", "h:8001"),
        (
            "https://api.example.com",
            Origin(True, "api.example.com", 443),
            "",
            "",
            "api.example.com",
        ),
        ("https://h:80/a%20b", Origin(True, "h", 80), "/a%20b", "", "h:80"),
        ("http://[::1]:9/v1", Origin(False, "::1", 9), "/v1", "", "[::1]:9"),
        (
            "http://h/deployments/m?api-version=2024-10-21&a=b c?",
            Origin(False, "h", 80),
            "/deployments/m",
            "?api-version=2024-10-21&a=b%20c?",
            "h",
        ),
        (
            "http://bücher.example/ü",
            Origin(False, "xn--bcher-kva.example", 80),
            "/%C3%BC",
            "",
            None,
        ),
    ],
)
def test_base_url_is_parsed(
    base_url: str, origin: Origin, path: str, query: str, authority: str | None
) -> None:
    assert parse_base_url(base_url) == Address(origin, path, query)
    if authority:
        assert origin.authority == authority

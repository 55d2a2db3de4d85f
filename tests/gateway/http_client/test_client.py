"""The HTTP client, against servers with scripted responses, valid and invalid."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from keyportal.gateway.http_client import client as module
from keyportal.gateway.http_client.client import Address, Client, parse_base_url
from keyportal.gateway.http_client.messages import (
    ConnectFailed,
    Origin,
    ProtocolError,
    ServerDisconnected,
)
from tests.support.scripted_server import (
    OK,
    ScriptedServer,
    answering,
    ask,
    in_pieces,
    post,
    read_request,
    run,
)


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
        async with ScriptedServer(script) as address:
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
        async with ScriptedServer(script) as address:
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
        async with ScriptedServer(in_pieces(answer, size)) as address:
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

        async with ScriptedServer(script) as address:
            response = await post(Client(), address)
            assert await response.next_chunk() == b"a"
            go_on.set()
            assert await response.next_chunk() == b"b"
            assert await response.next_chunk() == b""
            assert await response.next_chunk() == b""

    run(work())


def test_connection_is_reused() -> None:
    async def work() -> None:
        client, upstream = Client(), ScriptedServer(answering(*[OK] * 10))
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
        client, upstream = Client(), ScriptedServer(answering(*[answer] * 2))
        async with upstream as address:
            for _ in range(2):
                assert await (await post(client, address)).read() == b"hello"
        assert upstream.connections == 2

    run(work())


def test_closed_idle_connection_fails_no_call() -> None:
    async def work() -> None:
        client, upstream = Client(), ScriptedServer(answering(OK, close=True))
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

        client, upstream = Client(), ScriptedServer(script)
        async with upstream as address:
            assert await (await post(client, address)).read() == b"hello"
            assert await (await post(client, address)).read() == b"hello"
        assert upstream.connections == 2

    run(work())


def test_request_on_new_connection_that_closes_is_not_repeated() -> None:
    async def work() -> None:
        upstream = ScriptedServer(answering(b"", close=True))
        async with upstream as address:
            with pytest.raises(ServerDisconnected):
                await post(Client(), address)
        assert upstream.connections == 1

    run(work())


def test_request_is_not_repeated_after_the_first_byte() -> None:
    async def work() -> None:
        upstream = ScriptedServer(answering(OK, b"HTTP/1.1 200", close=True))
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
        async with ScriptedServer(script) as address:
            await (await post(client, address)).read()
            await asyncio.wait_for(ended.wait(), 60)
        assert not client._idle

    run(work())


def test_closing_stops_the_server() -> None:
    async def work() -> None:
        stopped = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
            await reader.read()
            stopped.set()

        async with ScriptedServer(script) as address:
            response = await post(Client(), address)
            await response.next_chunk()
            response.close()
            await asyncio.wait_for(stopped.wait(), 60)

    run(work())


def test_closing_after_the_end_does_not_close_the_next_response() -> None:
    async def work() -> None:
        client = Client()
        async with ScriptedServer(answering(OK, OK, OK)) as address:
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

        async with ScriptedServer(script) as address:
            task = asyncio.create_task(call(address))
            await begun.wait()
            await asyncio.sleep(0.1)  # Until the head has arrived.
            task.cancel()
            await stopped.wait()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(work())


@pytest.mark.parametrize("value", [b"a\r\nX-Evil: 1", b"a\nb", b"a\rb"])
def test_line_break_in_a_header_is_refused(value: bytes) -> None:
    async def work() -> None:
        async with ScriptedServer(answering(OK)) as address:
            with pytest.raises(ProtocolError):
                await post(Client(), address, headers=[(b"accept", value)])

    run(work())


def test_closed_port_is_connect_failed() -> None:
    async def work() -> None:
        async with ScriptedServer(answering(OK)) as address:
            pass
        with pytest.raises(ConnectFailed, match=str(address.origin.port)):
            await post(Client(), address)

    run(work())


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
    def check(_: Origin, address: str) -> None:
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

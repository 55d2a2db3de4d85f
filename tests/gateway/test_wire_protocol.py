"""Requests that client libraries don't send: pipelined, malformed, ambiguous, in pieces, old."""

import json
import socket
import time
from collections.abc import Callable
from http import HTTPStatus

import pytest

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.server import gunicorn_conf
from keyportal.teams.models import User
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.server import CHAT, Connection, Server, chat_body, head, wait_until

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
OwnServer = Callable[..., Server]


@pytest.fixture
def key(alice: User, issue: Issue) -> str:
    return issue(alice)[1]


def test_pipelined_requests_are_answered_in_order(
    live: Server, key: str, model: ServedModel
) -> None:
    body = json.dumps(chat_body(model.name)).encode()
    with live.connect() as connection:
        connection.send(
            head("GET /v1/models", key, None),
            head(f"POST {CHAT}", key, len(body)) + body,
            head("GET /v1/nothing", key, None),
            head("GET /v1/models", None, None),
            head("GET /v1/models", key, None),
        )
        statuses = [connection.reply().status for _ in range(5)]
    assert statuses == [200, 200, 404, 401, 200]


def test_the_next_request_may_come_while_a_call_runs(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    with live.connect() as connection:
        connection.chat(key, serve_model("wait"))
        connection.read_head()
        connection.chunk()
        connection.send(head("GET /v1/models", key, None)[:40])
        fake.released.set()
        assert b"".join(iter(connection.chunk, b"")).endswith(b"[DONE]\n\n")
        connection.send(head("GET /v1/models", key, None)[40:])
        assert connection.reply().status == 200


@pytest.mark.parametrize("path", ["/accounts/login/", "/v1/models"])
def test_a_fast_client_never_loses_a_request(live: Server, path: str) -> None:
    """The next request is sent as soon as the last byte is read, before the application returns."""
    with live.connect(timeout=60) as connection:
        for _ in range(100):
            connection.send_request(f"GET {path}")
            assert connection.reply().status in {200, 401}


@pytest.mark.parametrize("path", ["/accounts/login/", "/api/v1/self", "/v1/models"])
def test_large_request_may_follow_immediately(
    live: Server, key: str, model: ServedModel, path: str
) -> None:
    """A proxy reuses its connections, so a long prompt may follow another client's page."""
    body = json.dumps(chat_body(model.name, user="x" * 300_000)).encode()
    with live.connect(timeout=60) as connection:
        for _ in range(10):
            connection.send_request(f"GET {path}")
            assert connection.reply().status in {200, 401}
            connection.send_request(f"POST {CHAT}", key, body)
            assert connection.reply().status == 200


def test_a_request_may_come_byte_by_byte(live: Server, key: str, model: ServedModel) -> None:
    body = json.dumps(chat_body(model.name)).encode()
    with live.connect() as connection:
        for byte in head(f"POST {CHAT}", key, len(body)) + body:
            connection.send(bytes([byte]))
        assert connection.reply().status == 200


def test_a_chunked_body_is_read(live: Server, key: str, model: ServedModel) -> None:
    body = json.dumps(chat_body(model.name)).encode()
    chunked = ["Content-Type: application/json", "Transfer-Encoding: chunked"]
    with live.connect() as connection:
        connection.send(head(f"POST {CHAT}", key, None, *chunked))
        for byte in body:
            connection.send(b"1\r\n", bytes([byte]), b"\r\n")
        connection.send(b"0\r\n\r\n")
        assert connection.reply().status == 200


def refuses_and_closes(connection: Connection) -> bool:
    """Whether one error is sent, and what follows on the connection is not read as a request."""
    if not 400 <= connection.reply().status < 500:
        return False
    return connection.is_closed()


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 5"],
        ["Content-Length: +5"],
        ["Content-Length: 0x5"],
        ["Content-Length: -5"],
        ["Content-Length : 5"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding : chunked"],
        ["Transfer-Encoding:\x0bchunked"],
        ["X-Folded: a", " Transfer-Encoding: chunked"],
        ["X-Nothing\x00: a"],
        ["No colon"],
        ["Host: another.example"],
        ["Content-Type: text/plain"],
    ],
)
def test_ambiguous_requests_are_refused(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream, lines: list[str]
) -> None:
    """Attack (request smuggling): a proxy and we read an ambiguous request in two ways, so that a
    second request hides in the first."""
    body = json.dumps(chat_body(serve_model("echo"))).encode()
    smuggled = head(f"POST {CHAT}", key, len(body)) + body
    logged = len(live.log)
    with live.connect(timeout=60) as connection:
        request = head(f"POST {CHAT}", key, None, "Content-Type: application/json", *lines)
        connection.send(request, b"0\r\n\r\n", smuggled)
        assert refuses_and_closes(connection)
    assert fake.received == []
    assert "Traceback" not in live.log[logged:]


@pytest.mark.parametrize(
    "text",
    [
        b"This is not HTTP.\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\n\r\n",
        b"GET /v1/models\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 200 + b"\r\n",
    ],
    ids=["prose", "version", "no version", "HTTP/2", "long header", "long path", "many headers"],
)
def test_data_that_is_no_request_is_refused_without_a_traceback(live: Server, text: bytes) -> None:
    logged = len(live.log)
    with live.connect(timeout=60) as connection:
        connection.send(text)
        assert refuses_and_closes(connection)
    assert "Traceback" not in live.log[logged:]


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        (b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400, "malformed_request"),
        (b"GET /v1/models HTTP/1.1\r\nX: x\r\n\r\n", 400, "malformed_request"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 414, "address_too_long"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
            431,
            "headers_too_large",
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000, 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 100 + b"\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400, "malformed_request"),
        (b"GET /?a=\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed_request"),
        (b"GET /?a=\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed_request"),
        (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed_request"),
        (b"GET /v1/models?a=\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed_request"),
    ],
    ids=[
        *("no colon", "no host", "long path"),
        *("long head", "endless head", "many headers", "version"),
        *("latin-1 query", "UTF-8 query", "UTF-8 path", "latin-1 query of the gateway"),
    ],
)
def test_unreadable_request_is_refused_in_json(
    live: Server, text: bytes, status: int, code: str
) -> None:
    with live.connect(timeout=60) as connection:
        connection.send(text)
        line = connection.socket.recv(99, socket.MSG_PEEK | socket.MSG_WAITALL)
        reply = connection.reply()
        assert connection.is_closed()
    assert (reply.status, reply.code) == (status, code)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert line.startswith(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode())


def test_http_1_0_needs_no_host(live: Server) -> None:
    with live.connect(timeout=60) as connection:
        connection.send(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert connection.reply().status == 401


@pytest.mark.parametrize("path", [CHAT, "/accounts/login/"])
def test_connection_is_closed_after_connection_close(live: Server, path: str) -> None:
    """Even if all of the refused body was read, so that the connection could be reused."""
    body = b"x" * 5_000_000
    with live.connect(timeout=60) as connection:
        connection.send_request(f"POST {path}", None, body)
        reply = connection.reply()
        assert reply.status in {401, 413}
        assert reply.headers["connection"] == "close"
        assert connection.is_closed()


@pytest.mark.parametrize("chunk", [b"ZZ\r\n", b"-1\r\n", b"1\r\nxx\r\n", b"ffffffffffffffffff\r\n"])
def test_malformed_chunk_is_refused(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream, chunk: bytes
) -> None:
    serve_model("echo")
    chunked = ["Content-Type: application/json", "Transfer-Encoding: chunked"]
    logged = len(live.log)
    with live.connect(timeout=60) as connection:
        connection.send(head(f"POST {CHAT}", key, None, *chunked), chunk)
        assert connection.read_head().status == 400
        assert connection.is_closed()
    assert fake.received == []
    assert "Traceback" not in live.log[logged:]


def test_body_of_a_head_request_is_not_read_as_a_request(live: Server, key: str) -> None:
    """The body is not read, and must not be taken for the next request."""
    smuggled = head("GET /v1/models", key, None)
    with live.connect(timeout=60) as connection:
        connection.send(
            head("HEAD /v1/models", key, None, f"Content-Length: {len(smuggled)}"), smuggled
        )
        assert connection.read_head().status == 200
        assert connection.is_closed()


@pytest.mark.parametrize("lines", [[], ["Connection: keep-alive"]])
def test_http_1_0_responses(live: Server, key: str, model: ServedModel, lines: list[str]) -> None:
    """HTTP/1.0 has no chunked encoding: a stream ends when the connection is closed."""
    for body in (chat_body(model.name), chat_body(model.name, stream=True)):
        sent = json.dumps(body).encode()
        request = head(f"POST {CHAT}", key, len(sent), *lines).replace(b"HTTP/1.1", b"HTTP/1.0")
        with live.connect(timeout=60) as connection:
            connection.send(request, sent)
            reply = connection.reply()
            assert reply.status == 200
            assert "transfer-encoding" not in reply.headers
            assert b"model" in reply.body
            assert connection.is_closed()


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/realtime?model=tiny", "/v1/models"])
@pytest.mark.parametrize("value", ["websocket", "WebSocket"])
def test_websocket_is_refused_with_the_status_that_codex_falls_back_from(
    live: Server, key: str, path: str, value: str
) -> None:
    upgrade = ["Connection: Upgrade", f"Upgrade: {value}", "Sec-WebSocket-Version: 13"]
    upgrade.append("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    for sent in (key, None):  # A browser can't send the header with the key.
        with live.connect(timeout=60) as connection:
            connection.send(head(f"GET {path}", sent, None, *upgrade))
            reply = connection.reply()
            assert (reply.status, reply.code) == (426, "websocket_not_supported")
            assert connection.is_closed()


def test_page_is_no_websocket(live: Server) -> None:
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    with live.connect(timeout=60) as connection:
        connection.send(head("GET /accounts/login/", None, None, *upgrade))
        assert connection.reply().status == 200


def test_head_with_100_headers_and_64_kib_is_accepted(live: Server, key: str) -> None:
    headers = [f"X-{number}: {'x' * 600}" for number in range(98)]  # With Host and the key, 100.
    with live.connect(timeout=60) as connection:
        connection.send_request("GET /v1/models", key, None, *headers)
        assert connection.reply().status == 200


def test_client_that_is_still_sending_its_head_reads_the_error(live: Server) -> None:
    with live.connect(timeout=60) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        for _ in range(50):
            connection.send(b"x" * 20_000)
        reply = connection.reply()
        assert (reply.status, reply.code) == (431, "headers_too_large")


def test_an_empty_header_is_not_joined_to_the_next(live: Server, key: str) -> None:
    with live.connect(timeout=60) as connection:
        connection.send_request("GET /v1/models", key, None, "X-Empty:", "X-Request-Id: mine")
        reply = connection.reply()
        assert (reply.status, reply.headers["x-request-id"]) == (200, "mine")


def test_trailer_of_a_chunked_body_is_no_header(live: Server, key: str) -> None:
    chunked = ["Content-Type: application/json", "Transfer-Encoding: chunked"]
    with live.connect(timeout=60) as connection:
        connection.send(head(f"POST {CHAT}", None, None, *chunked), b"2\r\n{}\r\n0\r\n")
        connection.send(f"Authorization: Bearer {key}\r\n\r\n".encode())
        assert connection.reply().status == 401


def test_requests_before_an_unreadable_one_are_answered(
    live: Server, key: str, model: ServedModel
) -> None:
    body = json.dumps(chat_body(model.name)).encode()
    with live.connect(timeout=60) as connection:
        connection.send(
            head(f"POST {CHAT}", key, len(body)) + body,
            head("GET /v1/models", key, None),
            b"This is not HTTP.\r\n\r\n",
        )
        assert [connection.reply().status for _ in range(3)] == [200, 200, 400]
        assert connection.is_closed()


def test_number_of_pipelined_requests_is_limited(live: Server) -> None:
    with live.connect(timeout=60) as connection:
        connection.send(head("GET /v1/models", None, None) * 200)
        statuses = [connection.reply().status for _ in range(102)]
        assert connection.is_closed()
    assert statuses == [401] * 101 + [503]


def test_disconnect_with_a_pipelined_request_is_no_error(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    logged = len(live.log)
    with live.connect() as connection:
        connection.chat(key, serve_model("endless"))
        connection.read_head()
        connection.send_request("GET /v1/models", key)
        connection.chunk()
    wait_until(lambda: fake.disconnected_at)
    assert live.request("GET", "/v1/models", key=key).status == 200
    assert "Traceback" not in live.log[logged:]


def test_absolute_target_gives_path_and_host(live: Server, key: str) -> None:
    """RFC 9112, 3.2.2: the host in the target replaces the one in the header."""
    host = f"127.0.0.1:{live.port}"
    with live.connect(timeout=60) as connection:
        for target, header, status in (
            (f"http://{host}/v1/models", host, 200),
            (f"HTTP://{host}/v1/models?a=b", "evil.example", 200),
            (f"http://{host}/accounts/login/", "evil.example", 200),
            ("http://evil.example/accounts/login/", host, 400),
            (f"http://{host}", host, 302),
            (f"http://{host}?a=b", host, 302),
        ):
            lines = (f"GET {target} HTTP/1.1", f"Host: {header}", f"Authorization: Bearer {key}")
            connection.send("\r\n".join([*lines, "", ""]).encode())
            assert connection.reply().status == status, target
    for target in ("http://", f"http://user:password@{host}/v1/models", "ftp://a/", "*", "a"):
        with live.connect(timeout=60) as connection:
            connection.send(head(f"GET {target}", key, None))
            assert connection.reply().status == 400, target


def test_models_answer_head(live: Server, key: str, model: ServedModel) -> None:
    for path in ("/v1/models", f"/v1/models/{model.name}", "/v1/key"):
        with live.connect(timeout=60) as connection:
            connection.send_request(f"HEAD {path}", key)
            started = connection.read_head()
            assert started.status == 200
            connection.send_request(f"GET {path}", key)
            assert connection.reply().status == 200


def test_idle_connections_are_closed(own_server: OwnServer, key: str) -> None:
    """A used connection, one that has sent nothing, and one with half a request head."""
    assert gunicorn_conf.keepalive == 75
    server = own_server(GUNICORN_CMD_ARGS="--keep-alive 8")  # A busy machine may pause for seconds.
    with server.connect() as used, server.connect() as silent, server.connect() as half:
        half.send(head("GET /v1/models", key, None)[:20])
        used.send_request("GET /v1/models", key)
        assert used.reply().status == 200
        time.sleep(1)
        half.send(head("GET /v1/models", key, None)[20:30])
        used.send_request("GET /v1/models", key)
        assert used.reply().status == 200
        assert all(connection.is_closed() for connection in (used, silent, half))


def test_a_long_call_is_not_idle(
    own_server: OwnServer, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    server, model = own_server(GUNICORN_CMD_ARGS="--keep-alive 6"), serve_model("wait")
    with server.connect() as connection:
        connection.send_request("GET /v1/models", key)
        assert connection.reply().status == 200
        connection.chat(key, model)
        connection.read_head()
        time.sleep(7)
        fake.released.set()
        assert b"".join(iter(connection.chunk, b"")).endswith(b"[DONE]\n\n")


def test_connection_is_closed_after_a_request_to_upgrade(live: Server, key: str) -> None:
    with live.connect(timeout=60) as connection:
        upgrade = [
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABk",
        ]
        connection.send_request("GET /v1/models", key, None, *upgrade)
        reply = connection.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert connection.is_closed()

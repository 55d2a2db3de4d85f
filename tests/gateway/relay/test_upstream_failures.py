"""Model servers that are down, slow, or break the protocol, and what the caller gets."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from keyportal.catalog.models import Upstream
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.fake_upstream import running, scripted
from tests.support.server import Reply, Server, free_port

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def key(alice: User, issue: Issue) -> str:
    return issue(alice)[1]


def assert_failed(reply: Reply, status: int, code: str, fake: FakeUpstream) -> None:
    """In OpenAI's error format, without the model server's address."""
    assert (reply.status, reply.code) == (status, code)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    assert b"127.0.0.1" not in reply.body
    assert fake.url.encode() not in reply.body


@pytest.mark.parametrize("behaviour", ["hang_up", "half", "garbage", "large:200000"])
def test_protocol_error_of_an_upstream_is_a_502(
    live: Server, key: str, serve_model: Serve, behaviour: str
) -> None:
    with running() as fresh:  # There is no reused connection, so nothing is repeated.
        reply = live.chat(key, serve_model(behaviour, base_url=fresh.url))
        assert_failed(reply, 502, "upstream_failed", fresh)
        assert len(fresh.received) == 1  # It may have acted on the request.


def test_refused_connection_is_a_502(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    name = serve_model("echo", base_url=f"http://127.0.0.1:{free_port()}/v1")
    assert_failed(live.chat(key, name), 502, "upstream_failed", fake)


def test_unknown_host_name_is_a_502(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    name = serve_model("echo", base_url="http://nowhere.invalid/v1")
    assert_failed(live.chat(key, name), 502, "upstream_failed", fake)


@contextmanager
def deaf_server() -> Iterator[str]:
    """Listens with a full queue, so that connections are never opened."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(address)
            yield f"http://127.0.0.1:{address[1]}/v1"
        finally:
            for one in waiting:
                one.close()


def test_connect_timeout_is_a_504(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    with deaf_server() as url:
        name = serve_model("echo", base_url=url, connect_timeout=0.3)
        assert_failed(live.chat(key, name), 504, "upstream_timeout", fake)


@pytest.mark.parametrize(
    ("behaviour", "timeout"), [("stall", "first_byte_timeout"), ("trickle_head", "read_timeout")]
)
def test_read_timeout_is_a_504(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream, behaviour: str, timeout: str
) -> None:
    name = serve_model(behaviour, **{timeout: 1})
    began = time.monotonic()
    assert_failed(live.chat(key, name), 504, "upstream_timeout", fake)
    assert time.monotonic() - began > 0.9


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_refused_credential_is_a_502_with_our_own_message(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream, status: int
) -> None:
    """Attack: the server's words may contain our credential."""
    reply = live.chat(key, serve_model(f"status:{status}"))
    assert_failed(reply, 502, "upstream_refused", fake)
    assert b"own words" not in reply.body
    assert reply.headers["x-should-retry"] == "false"
    assert "retry-after" not in reply.headers


@pytest.mark.parametrize("endpoint", ["chat/completions", "messages"])
def test_status_529_is_relayed_only_by_the_messages_endpoint(
    live: Server, key: str, serve_model: Serve, endpoint: str
) -> None:
    body = {"model": serve_model("status:529"), "max_tokens": 1}
    headers = {"Content-Type": "application/json"}
    reply = live.request("POST", f"/v1/{endpoint}", key=key, body=body, headers=headers)
    assert reply.status == (529 if endpoint == "messages" else 503)
    assert reply.headers["retry-after"] == "7"


@pytest.mark.parametrize("status", [400, 422, 429, 500, 503])
def test_errors_of_an_upstream_are_relayed(
    live: Server, key: str, serve_model: Serve, status: int
) -> None:
    reply = live.chat(key, serve_model(f"status:{status}"))
    assert reply.status == status
    assert reply.code == "its_own"
    assert reply.json()["error"]["message"] == "The upstream's own words."
    assert reply.headers["retry-after"] == "7"
    assert reply.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("size", [1_000_000, -1_000_000])
def test_truncated_response_is_not_ended_cleanly(
    live: Server, key: str, serve_model: Serve, size: int
) -> None:
    """It is too long to be buffered, so it breaks off for the caller too."""
    with live.connect() as connection:
        connection.chat(key, serve_model(f"large:{size}"))
        started = connection.read_head()
        assert started.status == 200
        if size < 0:
            with pytest.raises(EOFError):
                list(iter(connection.chunk, b""))
        else:
            assert started.headers["content-length"] == str(size)
            assert connection.is_closed()


def test_truncated_compressed_stream_gets_no_error_event(
    live: Server, key: str, serve_model: Serve
) -> None:
    """It would be read as a part of the compressed data."""
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n"
        b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n"
    )
    with scripted(lambda *_: answer) as (url, _), live.connect() as connection:
        connection.chat(key, serve_model("any", base_url=url))
        assert connection.read_head().headers["content-encoding"] == "gzip"
        assert connection.chunk() == b"abc"
        with pytest.raises(EOFError):
            connection.chunk()


def test_call_on_a_stale_connection_is_retried_once(
    live: Server, key: str, serve_model: Serve
) -> None:
    """The server closed it just before the request, so it has not seen the request."""

    def once_a_connection(_: int, asked: int) -> bytes:
        return OK if asked == 1 else b""

    with scripted(once_a_connection) as (url, requests):
        name = serve_model("any", base_url=url)
        calls = 8  # Both workers reuse a connection.
        assert [live.chat(key, name).status for _ in range(calls)] == [200] * calls
        assert len(requests) > calls


def test_call_on_a_new_connection_is_not_retried(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    """The server may have begun to generate; a second request would generate twice."""
    with scripted(lambda *_: b"") as (url, requests):
        name = serve_model("any", base_url=url)
        assert_failed(live.chat(key, name), 502, "upstream_failed", fake)
        assert len(requests) == 1


def test_unusual_but_valid_responses_are_relayed(
    live: Server, key: str, serve_model: Serve
) -> None:
    answers = {
        b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{}": b"{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n": b"{}",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK: b"{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n": b"",
    }
    for number, (answer, body) in enumerate(answers.items()):
        with scripted(lambda *_, answer=answer: answer) as (url, _):
            name = serve_model("any", name=f"odd-{number}", base_url=url)
            reply = live.chat(key, name)
            assert (reply.status, reply.body) == (200, body)


def test_content_length_of_a_response_without_a_body_is_removed(
    live: Server, key: str, serve_model: Serve
) -> None:
    answer = b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"
    with scripted(lambda *_: answer) as (url, _), live.connect() as connection:
        name = serve_model("any", base_url=url)
        connection.chat(key, name)
        reply = connection.read_head()
        assert reply.status == 204
        assert "content-length" not in reply.headers
        connection.chat(key, name)  # The connection can be used again.
        assert connection.read_head().status == 204


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: " + b"x" * 100_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: " + b"5" * 5001 + b"\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\nContent-Length: 6\r\n\r\nbefore" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ],
    ids=[
        *("two lengths", "huge header", "status", "chunk", "binary"),
        *("huge length", "status 099", "transfer coding"),
    ],
)
def test_invalid_responses_are_refused(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream, answer: bytes
) -> None:
    with scripted(lambda *_: answer) as (url, _):
        reply = live.chat(key, serve_model("any", base_url=url))
    assert_failed(reply, 502, "upstream_failed", fake)


def test_upstream_that_is_down_does_not_affect_others(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    down = serve_model("echo", name="down", base_url=f"http://127.0.0.1:{free_port()}/v1")
    unreadable = serve_model("echo", name="unreadable")
    Upstream.objects.filter(name="fake-unreadable").update(encrypted_credential="nonsense")
    healthy = serve_model("echo")
    assert live.chat(key, down).status == 502
    reply = live.chat(key, unreadable)
    assert (reply.status, reply.code) == (502, "credential_unreadable")
    assert reply.headers["x-should-retry"] == "false"
    assert live.chat(key, healthy).status == 200
    assert fake.received[0].path == "/v1/chat/completions"

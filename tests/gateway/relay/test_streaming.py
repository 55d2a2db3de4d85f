"""Streams: chunks pass at once, in complete events, in bounded memory; disconnects end calls."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keyportal.gateway.relay.sse import COMMENT
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from keyportal.usage.models import Call
from tests.support.fake_upstream import CHUNKS, event, scripted
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.lazy import LazyModule
from tests.support.server import CHAT, Connection, Server, wait_until

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
DONE = b"data: [DONE]\n\n"
MEBIBYTE = 1024 * 1024


@pytest.fixture
def key(alice: User, issue: Issue) -> str:
    return issue(alice)[1]


@pytest.fixture
def connection(live: Server) -> Iterator[Connection]:
    with live.connect() as connection:
        yield connection


def test_chunk_is_relayed_at_once(
    connection: Connection, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    """The first event is read while the upstream still waits for the test's signal."""
    connection.chat(key, serve_model("wait"))
    started = connection.read_head()
    assert started.status == 200
    assert started.headers["content-type"] == "text/event-stream"
    assert started.headers["cache-control"] == "no-cache"
    assert started.headers["x-accel-buffering"] == "no"
    assert started.headers["x-request-id"].startswith("req_")
    assert connection.chunk() == event(0)
    assert not fake.released.is_set()
    fake.released.set()
    assert b"".join(iter(connection.chunk, b"")) == event(1) + DONE


def test_server_that_refuses_usage_options_streams_without_them(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    reply = live.request(
        "POST", CHAT, key=key, body={"model": serve_model("strict"), "stream": True}
    )
    assert reply.status == 200
    assert reply.body.endswith(DONE)
    asked = ["stream_options" in json.loads(received.body) for received in fake.received]
    assert asked == [True, False]
    own = {"model": "u-8105f7322477/strict", "stream": True, "stream_options": {"x": 1}}
    assert live.request("POST", CHAT, key=key, body=own).code == "its_own"


def test_incomplete_event_is_held_back(
    connection: Connection, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    connection.chat(key, serve_model("wait_inside"))
    connection.read_head()
    assert connection.chunk() == event(0)
    fake.released.set()
    assert b"".join(iter(connection.chunk, b"")) == b'data: {"half'


@pytest.mark.parametrize("behaviour", ["stream", "straddle"])
def test_events_are_relayed_byte_for_byte(
    connection: Connection, key: str, serve_model: Serve, behaviour: str
) -> None:
    """Complete events arrive, whatever chunks the upstream writes."""
    connection.chat(key, serve_model(behaviour))
    assert connection.read_head().status == 200
    chunks = list(iter(connection.chunk, b""))
    assert b"".join(chunks) == b"".join(map(event, range(CHUNKS))) + DONE
    assert all(chunk.endswith(b"\n\n") for chunk in chunks)
    # The connection is reused by the next call.
    connection.send_request("GET /v1/models", key)
    assert connection.reply().status == 200


def test_official_client_reads_a_relayed_stream(live: Server, key: str, serve_model: Serve) -> None:
    name = serve_model("straddle")
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0) as ai:
        stream = ai.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        said = [chunk.choices[0].delta.content for chunk in stream]
    assert said == [" 0", " 1", " 2", " 3", " 4"]


def test_silent_stream_gets_comments_that_are_not_counted(
    own_server: Callable[..., Server], key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    """Two streams are silent; the server of one sends no comments."""
    server = own_server(KEYPORTAL_STREAM_KEEPALIVE_SECONDS="1")
    name, without = serve_model("wait"), serve_model("wait", "without", sends_keepalive=False)
    with server.connect() as connection, server.connect() as other:
        for one, model in ((connection, name), (other, without)):
            one.chat(key, model)
            one.read_head()
            assert one.chunk() == event(0)
        assert [connection.chunk(), connection.chunk()] == [COMMENT, COMMENT]
        fake.released.set()
        rest = b"".join(iter(connection.chunk, b""))
        assert rest.replace(COMMENT, b"") == event(1) + DONE
        assert b"".join(iter(other.chunk, b"")) == event(1) + DONE
    wait_until(lambda: Call.objects.count() == 2)
    used = Call.objects.values_list("prompt_tokens", "completion_tokens", "is_estimated")
    assert len({row[1:] for row in used}) == 1, "comments are not counted"


def resident(pids: list[int]) -> int:
    """The memory of these processes in bytes."""
    kib = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        kib += int(status.partition("VmRSS:")[2].split()[0])
    return kib * 1024


def test_client_that_does_not_read_uses_little_memory(
    live: Server, connection: Connection, key: str, serve_model: Serve
) -> None:
    """The upstream sends 200 MiB; the gateway's buffer is bounded, and no byte is lost."""
    workers = live.workers()
    assert live.request("GET", "/v1/models", key=key).status == 200
    before = resident(workers)
    connection.chat(key, serve_model("flood:200"))
    assert connection.read_head().status == 200
    grown = []
    for _ in range(15):
        time.sleep(0.1)
        grown.append(resident(workers) - before)
    assert max(grown) < 30 * MEBIBYTE
    read = 0
    while chunk := connection.chunk():
        read += len(chunk)
    assert read == 200 * 16 * 65_536


@pytest.mark.parametrize("behaviour", ["endless", "stall", "flood:500", "wait_inside"])
def test_disconnect_of_the_client_ends_the_upstream_call(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream, behaviour: str
) -> None:
    """So that the model server stops generating, during its stream and before its first byte."""
    name = serve_model(behaviour)
    for number in range(1, 6):
        with live.connect() as connection:
            connection.chat(key, name)
            wait_until(lambda: len(fake.received) == number)  # noqa: B023 - called at once
            if behaviour != "stall":
                connection.read_head()
                connection.chunk()
        wait_until(lambda: len(fake.disconnected_at) == number)  # noqa: B023


def test_disconnect_of_the_client_is_not_logged_as_an_error(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    logged = len(live.log)
    for number, behaviour in enumerate(("endless", "stall", "trickle"), 1):
        with live.connect() as connection:
            connection.chat(key, serve_model(behaviour))
            wait_until(lambda: len(fake.received) == number)  # noqa: B023 - called at once
        wait_until(lambda: len(fake.disconnected_at) == number)  # noqa: B023
    assert live.request("GET", "/v1/models", key=key).status == 200
    assert "Traceback" not in live.log[logged:]


def last_event(connection: Connection) -> tuple[list[bytes], dict[str, str]]:
    """The events before the last one, and the error in the last one."""
    *events, last, rest = b"".join(iter(connection.chunk, b"")).split(b"\n\n")
    assert rest == b""
    assert last.startswith(b"data: ")
    error: dict[str, str] = json.loads(last.removeprefix(b"data: "))["error"]
    return events, error


@pytest.mark.parametrize("detail", ["", "inside"])
def test_broken_stream_ends_with_an_error_event(
    connection: Connection, key: str, serve_model: Serve, detail: str
) -> None:
    """The error follows a complete event; an incomplete event before it is dropped."""
    connection.chat(key, serve_model(f"break_midway:{detail}"))
    assert connection.read_head().status == 200
    events, error = last_event(connection)
    assert events == [event(0).strip()]
    assert error["code"] == "upstream_failed"
    assert set(error) == {"message", "type", "param", "code"}


def test_stream_that_times_out_ends_with_an_error_event(
    connection: Connection, key: str, serve_model: Serve
) -> None:
    connection.chat(key, serve_model("wait", read_timeout=1))
    assert connection.read_head().status == 200
    events, error = last_event(connection)
    # On a busy machine, the server may be silent before its event.
    assert events in ([event(0).strip()], [])
    assert error["code"] == "upstream_timeout"


def test_official_client_raises_on_a_broken_stream(
    live: Server, key: str, serve_model: Serve
) -> None:
    name = serve_model("break_midway:inside")
    said: list[str | None] = []
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0) as ai:
        stream = ai.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="broke off") as raised:
            said.extend(chunk.choices[0].delta.content for chunk in stream)
    assert said == [" 0"]
    assert raised.value.code == "upstream_failed"


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}\n\n'


@pytest.mark.parametrize("size", [None, 400_000], ids=["whole", "breaks off"])
def test_content_length_of_a_stream_is_not_relayed(
    connection: Connection, key: str, serve_model: Serve, size: int | None
) -> None:
    """Events may be removed or added, so the next response would be read as part of this one."""
    body = event(0) + USAGE + DONE
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
    answer = head + b"Content-Length: %d\r\n\r\n" % (size or len(body)) + body
    with scripted(lambda *_: answer) as (url, _):
        name = serve_model("any", base_url=url)
        connection.chat(key, name, stream=True)
        reply = connection.reply()
        assert "content-length" not in reply.headers
        assert reply.body.startswith(event(0) + DONE)
        assert (b"upstream_failed" in reply.body) is bool(size)
        # The next answer on the connection is complete.
        connection.send_request("GET /v1/models", key)
        assert connection.reply().json()["object"] == "list"

"""Uploads pass through: never whole in memory, no faster than the upstream, never half a form."""

import contextlib
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.serving import Connection, Reply, Server, wait_until
from tests.shapes import TEXT, WORDS
from tests.upstream import Upstream as FakeUpstream
from tests.upstream import form_parts

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
OwnServer = Callable[..., Server]
PATH = "/v1/audio/transcriptions"
MEBIBYTE = 1024 * 1024
SOUND = bytes(range(256)) * 4096  # 1 MiB
END = b"--b--\r\n"


@pytest.fixture
def key(alice: User, issue: Issue) -> str:
    return issue(alice)[1]


@pytest.fixture
def connection(live: Server) -> Iterator[Connection]:
    with live.connect() as connection:
        yield connection


def field(name: str, value: str) -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def file(content: bytes) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n'
    return head + b"Content-Type: audio/mpeg\r\n\r\n" + content + b"\r\n"


def head(key: str, *more: str) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *more]
    lines.append("Content-Type: multipart/form-data; boundary=b")
    return "\r\n".join([*lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


CHUNKED = "Transfer-Encoding: chunked"


def upload(live: Server, key: str, *parts: bytes, end: bytes = END) -> Reply:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return live.request("POST", PATH, key=key, body=b"".join(parts) + end, headers=headers)


def arrived(fake: FakeUpstream) -> dict[str, bytes]:
    """The form as the upstream's own parser reads it."""
    (received,) = fake.received
    assert received.path == PATH
    return {name: content for name, _, content in form_parts(received)}


def test_official_client(live: Server, key: str, serve_model: Serve, fake: FakeUpstream) -> None:
    """It sends the model before the file, however large."""
    sound = SOUND * 8
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0) as ai:
        wanted = {"model": serve_model("shaped"), "language": "en"}
        heard = ai.audio.transcriptions.create(
            **wanted,  # type: ignore[call-overload]
            file=("speech.mp3", io.BytesIO(sound)),
            timestamp_granularities=["word", "segment"],
        )
        assert heard.text == TEXT
        received = fake.received[0]
        assert form_parts(received) == [
            ("model", None, b"shaped"),
            ("language", None, b"en"),
            ("timestamp_granularities[]", None, b"word"),
            ("timestamp_granularities[]", None, b"segment"),
            ("file", "speech.mp3", sound),
        ]
        assert "Content-Length" not in received.headers  # Passed on before its end was known.
        events = ai.audio.transcriptions.create(
            **wanted,  # type: ignore[call-overload]
            file=("speech.mp3", b"x"),
            stream=True,
        )
        assert [event.delta for event in events if event.type == "transcript.text.delta"] == WORDS


@pytest.mark.parametrize("mebibytes", [0, 8])
def test_a_file_may_come_before_the_model(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream, mebibytes: int
) -> None:
    """As in OpenAI's own examples for curl. Then it is whole before it goes on."""
    sound = b"sound" + SOUND * mebibytes
    parts = (file(sound), field("model", serve_model("shaped")), field("prompt", "x"))
    assert upload(live, key, *parts).json()["text"] == TEXT
    assert arrived(fake) == {"model": b"shaped", "file": sound, "prompt": b"x"}
    assert "Content-Length" in fake.received[0].headers or mebibytes


def test_byte_by_byte(
    connection: Connection, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    body = field("model", serve_model("shaped")) + file(b"\r\n--b\r") + END
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.send(head(key, CHUNKED))
    for byte in body:
        connection.send(chunk(bytes([byte])))
    connection.send(b"0\r\n\r\n")
    assert connection.reply().json()["text"] == TEXT
    assert arrived(fake) == {"model": b"shaped", "file": b"\r\n--b\r"}
    connection.ask("GET /v1/models", key)
    assert connection.reply().status == 200


def test_an_upload_goes_on_before_it_is_whole(
    connection: Connection, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    fake.arrived = 0
    connection.send(head(key, CHUNKED), chunk(field("model", serve_model("shaped"))))
    connection.send(chunk(file(SOUND)[:-10]))
    wait_until(lambda: fake.arrived > MEBIBYTE // 2)
    connection.send(chunk(SOUND[-8:] + b"\r\n" + END), b"0\r\n\r\n")
    assert connection.reply().status == 200
    assert arrived(fake)["file"] == SOUND


def resident(live: Server) -> int:
    """Bytes of memory that the workers have."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in live.workers()]
    return sum(int(text.split("VmRSS:")[1].split()[0]) * 1024 for text in texts)


def send_until_it_must_wait(connection: Connection, body: bytes) -> int:
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < len(body):
            sent += connection.socket.send(body[sent : sent + 65_536])
    return sent


def system_buffers() -> int:
    """Bytes that the system keeps at most for one direction of one connection."""
    settings = (Path(f"/proc/sys/net/ipv4/{name}").read_text() for name in ("tcp_rmem", "tcp_wmem"))
    return sum(int(text.split()[2]) for text in settings)


def test_a_sender_waits_for_a_reluctant_upstream_and_costs_no_memory(
    own_server: OwnServer, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    server = own_server(KEYPORTAL_MAX_BODY_BYTES=str(200 * MEBIBYTE))
    body = field("model", serve_model("reluctant")) + file(SOUND * 60) + END
    with server.connect() as connection:
        upload(server, key, field("model", "x"), file(SOUND))  # What every process needs once.
        before = resident(server)
        connection.send(head(key, f"Content-Length: {len(body)}"))
        connection.socket.settimeout(1)
        sent = send_until_it_must_wait(connection, body)
        # What the system may keep for both connections on the way, and a little of our own.
        assert sent < min(2 * system_buffers() + 4 * MEBIBYTE, len(body) - MEBIBYTE)
        assert resident(server) - before < 8 * MEBIBYTE
        fake.may_go_on.set()
        connection.socket.settimeout(120)
        connection.send(body[sent:])
        assert connection.reply().status == 200
        assert resident(server) - before < 16 * MEBIBYTE
    assert arrived(fake)["file"] == SOUND * 60


def test_a_large_file_that_waits_for_its_model_waits_on_disk(
    own_server: OwnServer, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    server = own_server(KEYPORTAL_MAX_BODY_BYTES=str(200 * MEBIBYTE))
    name = serve_model("shaped")
    upload(server, key, file(SOUND), field("model", name))
    before = resident(server)
    with server.connect() as connection:
        body = file(SOUND * 60)
        rest = field("model", name) + END
        connection.send(head(key, f"Content-Length: {len(body) + len(rest)}"), body)
        assert resident(server) - before < 8 * MEBIBYTE
        connection.send(rest)
        assert connection.reply().status == 200


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        (field("model", "u-0000000000cc/theirs") + END, "invalid_request"),
        (field("model[]", "x") + END, "invalid_request"),
        (b"", "invalid_request"),
        (b"--b\r\nContent-Type: x\r\n\r\n" + END, "invalid_request"),
    ],
    ids=["second model", "nearly a model", "no end", "no name"],
)
def test_what_is_wrong_after_the_model_ends_the_call_and_no_upstream_sees_a_whole_form(
    connection: Connection,
    key: str,
    serve_model: Serve,
    fake: FakeUpstream,
    rest: bytes,
    code: str,
) -> None:
    fake.arrived = 0
    connection.send(head(key, CHUNKED), chunk(field("model", serve_model("shaped"))))
    connection.send(chunk(file(SOUND)))
    wait_until(lambda: fake.arrived > MEBIBYTE // 2)
    connection.send(chunk(rest) if rest else b"", b"0\r\n\r\n")
    reply = connection.reply()
    assert (reply.status, reply.code) == (400, code)
    wait_until(lambda: fake.arrived >= MEBIBYTE)
    time.sleep(0.1)
    assert not fake.received


def test_a_deleted_key_ends_its_upload(
    connection: Connection, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    made, key = issue(alice)
    fake.arrived = 0
    connection.send(head(key, CHUNKED), chunk(field("model", serve_model("shaped"))))
    connection.send(chunk(file(SOUND)))
    wait_until(lambda: fake.arrived > MEBIBYTE // 2)
    made.revoke(actor=alice)
    reply = connection.reply()
    assert (reply.status, reply.code) == (401, "invalid_api_key")
    assert not fake.received


def test_who_leaves_in_the_middle_leaves_no_form_behind(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    fake.arrived = 0
    with live.connect() as connection:
        connection.send(head(key, CHUNKED), chunk(field("model", serve_model("shaped"))))
        connection.send(chunk(file(SOUND)))
        wait_until(lambda: fake.arrived > MEBIBYTE // 2)
    time.sleep(0.5)
    assert not fake.received
    assert live.chat(key, serve_model("echo")).status == 200


def test_an_answer_that_comes_before_the_upload_is_whole_reaches_its_caller(
    connection: Connection, key: str, serve_model: Serve
) -> None:
    """Such as an upstream's "too large"; closing at once would reset the connection instead."""
    body = field("model", serve_model("early:413")) + file(SOUND * 15) + END
    connection.send(head(key, f"Content-Length: {len(body)}"), body[: MEBIBYTE * 2])
    reply = connection.reply()
    assert (reply.status, reply.code) == (413, "its_own")
    assert reply.headers["connection"] == "close"


def test_an_upload_is_as_large_as_bodies_may_be(
    own_server: OwnServer, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    server = own_server(KEYPORTAL_MAX_BODY_BYTES=str(MEBIBYTE))
    name = serve_model("shaped")
    for early, late in [(field("model", name), b""), (b"", field("model", name))]:
        body = early + file(SOUND) + late + END
        with server.connect() as connection:
            connection.send(head(key, CHUNKED), chunk(body), b"0\r\n\r\n")
            assert connection.reply().code == "request_too_large"
        with server.connect() as connection:
            connection.send(head(key, f"Content-Length: {len(body)}"))
            assert connection.reply().code == "request_too_large"
    assert not fake.received


def test_refusals(live: Server, key: str, serve_model: Serve, model: ServedModel) -> None:
    reply = live.request("POST", PATH, key=key, body={"model": model.name})
    assert (reply.status, reply.code) == (415, "unsupported_media_type")
    assert "multipart/form-data" in reply.json()["error"]["message"]
    reply = upload(live, key, field("model", model.name), file(b"x"))
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert "built-in" in reply.json()["error"]["message"]
    for theirs in ("u-0000000000cc/theirs", " " + model.name, model.name + "\r\n"):
        assert upload(live, key, field("model", theirs), file(SOUND)).code == "model_not_found"
    assert upload(live, key, file(SOUND)).code == "missing_required_parameter"
    assert upload(live, "sk-kp-wrong", file(SOUND)).code == "invalid_api_key"


def test_what_the_caller_sends_as_a_head_goes_no_further(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    name = serve_model("echo_form")
    sly = (
        file(b"x")
        .replace(b'"a.mp3"', b'"a\\"; name=\\"model"')
        .replace(b"Content-Type", b"X-Injected: 1\r\nContent-Type")
    )
    said = json.loads(upload(live, key, field("model", name), sly).body)
    assert "X-Injected" not in str(said)
    assert said["headers"]["Content-Type"] != "multipart/form-data; boundary=b"
    assert arrived(fake) == {"model": b"echo_form", "file": b"x"}

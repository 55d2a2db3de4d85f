"""Uploads are stored on disk until complete: little memory, and no incomplete form upstream."""

import contextlib
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.fake_upstream import form_parts
from tests.support.lazy import LazyModule
from tests.support.model_responses import TEXT, WORDS
from tests.support.server import Connection, Reply, Server, wait_until

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

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


def test_official_client_uploads_a_file(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    """It sends the model before the file, whatever the file's size."""
    sound = SOUND * 2
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0) as ai:
        wanted = {"model": serve_model("normal"), "language": "en"}
        heard = ai.audio.transcriptions.create(
            **wanted,  # type: ignore[call-overload]
            file=("speech.mp3", io.BytesIO(sound)),
            timestamp_granularities=["word", "segment"],
        )
        assert heard.text == TEXT
        received = fake.received[0]
        assert form_parts(received) == [
            ("model", None, b"normal"),
            ("language", None, b"en"),
            ("timestamp_granularities[]", None, b"word"),
            ("timestamp_granularities[]", None, b"segment"),
            ("file", "speech.mp3", sound),
        ]
        assert received.headers["Content-Length"] == str(len(received.body))
        events = ai.audio.transcriptions.create(
            **wanted,  # type: ignore[call-overload]
            file=("speech.mp3", b"x"),
            stream=True,
        )
        assert [event.delta for event in events if event.type == "transcript.text.delta"] == WORDS


@pytest.mark.parametrize("mebibytes", [0, 2])
def test_file_may_come_before_the_model(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream, mebibytes: int
) -> None:
    """As in OpenAI's own examples for curl."""
    sound = b"sound" + SOUND * mebibytes
    parts = (file(sound), field("model", serve_model("normal")), field("prompt", "x"))
    assert upload(live, key, *parts).json()["text"] == TEXT
    assert arrived(fake) == {"model": b"normal", "file": sound, "prompt": b"x"}


def test_upload_in_single_bytes_is_relayed(
    connection: Connection, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    body = field("model", serve_model("normal")) + file(b"\r\n--b\r") + END
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.send(head(key, CHUNKED))
    for byte in body:
        connection.send(chunk(bytes([byte])))
    connection.send(b"0\r\n\r\n")
    assert connection.reply().json()["text"] == TEXT
    assert arrived(fake) == {"model": b"normal", "file": b"\r\n--b\r"}
    connection.send_request("GET /v1/models", key)
    assert connection.reply().status == 200


def resident(live: Server) -> int:
    """The memory of the workers in bytes."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in live.workers()]
    return sum(int(text.split("VmRSS:")[1].split()[0]) * 1024 for text in texts)


def test_large_upload_uses_little_memory(
    own_server: OwnServer, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    """Wherever the file stands in the form."""
    server = own_server(KEYPORTAL_MAX_BODY_BYTES=str(200 * MEBIBYTE))
    model = field("model", serve_model("normal"))
    upload(server, key, model, file(SOUND))  # Memory that each process needs once.
    large = file(SOUND * 14)
    for body in (large + model, model + large):
        before = resident(server)
        with server.connect() as connection:
            connection.send(head(key, f"Content-Length: {len(body) + len(END)}"), body)
            assert resident(server) - before < 8 * MEBIBYTE
            connection.send(END)
            assert connection.reply().status == 200
            assert resident(server) - before < 16 * MEBIBYTE
        assert len(fake.received[-1].body) > 14 * MEBIBYTE
        fake.received.clear()


def open_files(server: Server, folder: Path) -> list[str]:
    """The files in the folder that the workers have open."""
    links = [link for pid in server.workers() for link in Path(f"/proc/{pid}/fd").iterdir()]
    targets = []
    for link in links:
        with contextlib.suppress(FileNotFoundError):  # Closed meanwhile.
            targets.append(str(link.readlink()))
    return [target for target in targets if target.startswith(str(folder))]


def test_temporary_file_has_no_name_and_is_always_closed(
    own_server: OwnServer, alice: User, issue: Issue, serve_model: Serve, tmp_path: Path
) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    server = own_server(TMPDIR=str(folder))
    made, key = issue(alice)
    model = field("model", serve_model("normal"))
    idle, named = open_files(server, folder), [*folder.iterdir()]
    for ends_by in ("answer", "leaving", "deletion"):
        with server.connect() as connection:
            connection.send(head(key, CHUNKED), chunk(model), chunk(file(SOUND)))
            wait_until(lambda: len(open_files(server, folder)) == len(idle) + 1)
            assert [*folder.iterdir()] == named
            if ends_by == "answer":
                connection.send(chunk(END), b"0\r\n\r\n")
                assert connection.reply().status == 200
            elif ends_by == "deletion":
                made.revoke(actor=alice)
                assert connection.reply().status == 401
        wait_until(lambda: open_files(server, folder) == idle)


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
def test_invalid_form_is_refused_before_an_upstream_is_called(
    connection: Connection,
    key: str,
    serve_model: Serve,
    fake: FakeUpstream,
    rest: bytes,
    code: str,
) -> None:
    connection.send(head(key, CHUNKED), chunk(field("model", serve_model("normal"))))
    connection.send(chunk(file(SOUND)))
    connection.send(chunk(rest) if rest else b"", b"0\r\n\r\n")
    reply = connection.reply()
    assert (reply.status, reply.code) == (400, code)
    assert not fake.bytes_read


@pytest.mark.parametrize("ends_by", ["leaving", "deletion"])
def test_incomplete_upload_is_not_relayed(
    live: Server,
    alice: User,
    issue: Issue,
    serve_model: Serve,
    fake: FakeUpstream,
    ends_by: str,
) -> None:
    made, key = issue(alice)
    with live.connect() as connection:
        connection.send(head(key, CHUNKED), chunk(field("model", serve_model("normal"))))
        connection.send(chunk(file(SOUND)))
        if ends_by == "deletion":
            made.revoke(actor=alice)
            reply = connection.reply()
            assert (reply.status, reply.code) == (401, "invalid_api_key")
    _, another = issue(alice, "another")
    assert live.chat(another, serve_model("echo")).status == 200
    assert not fake.bytes_read


def test_key_deleted_during_a_slow_upload_is_refused_at_its_end(
    connection: Connection, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    made, key = issue(alice)
    body = field("model", serve_model("normal")) + file(SOUND)
    connection.send(head(key, CHUNKED), chunk(body))
    time.sleep(1.1)
    made.revoke(actor=alice)
    connection.send(chunk(END), b"0\r\n\r\n")
    reply = connection.reply()
    assert (reply.status, reply.code) == (401, "invalid_api_key")
    assert not fake.bytes_read


def test_upstream_may_refuse_before_it_reads_the_form(
    live: Server, key: str, serve_model: Serve
) -> None:
    """For example because it is too large."""
    reply = upload(live, key, field("model", serve_model("early:413")), file(SOUND * 8))
    assert (reply.status, reply.code) == (413, "its_own")


def test_upload_above_the_maximum_size_is_refused(
    own_server: OwnServer, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    server = own_server(KEYPORTAL_MAX_BODY_BYTES=str(MEBIBYTE))
    name = serve_model("normal")
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


def test_part_headers_of_the_caller_are_not_relayed(
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

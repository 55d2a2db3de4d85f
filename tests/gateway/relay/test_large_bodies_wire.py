"""Large JSON bodies through the real server: unchanged, within their memory, and released."""

import json
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from keyportal.catalog.models import BUILT_IN_URL, Route, ServedModel, Upstream
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.model_responses import TEXT
from tests.support.server import CHAT, Server, chat_body, free_port, head

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
OwnServer = Callable[..., Server]
MEBIBYTE = 1024 * 1024
# A key has 2 MiB of it. Nothing may stay in memory, because the largest body would have no room.
TIGHT = str(8 * MEBIBYTE)
UPLOAD = "/v1/audio/transcriptions"
ALL = str(MEBIBYTE)
LARGER_THAN_ALL = 2 * MEBIBYTE


@pytest.fixture
def key(alice: User, issue: Issue) -> str:
    return issue(alice)[1]


def text(size: int) -> str:
    """Text that can't be taken for base64, with characters of one to four bytes."""
    words = [f"{secrets.token_hex(8)} é € \U0001f600" for _ in range(1000)]
    sentence = " ".join(words)
    return sentence * (1 + size // len(sentence.encode()))


def conversation(model: str, size: int, **more: object) -> dict[str, object]:
    return chat_body(model, user="somebody", prompt=text(size), **more)


def assert_relayed(fake: FakeUpstream, sent: dict[str, object]) -> None:
    received = fake.received[-1]
    assert json.loads(received.body) == sent
    assert received.headers["Content-Length"] == str(len(received.body))
    assert "Transfer-Encoding" not in received.headers


@pytest.mark.parametrize("is_tight", [False, True])
def test_large_body_is_relayed_unchanged(
    live: Server,
    own_server: OwnServer,
    key: str,
    serve_model: Serve,
    fake: FakeUpstream,
    team: Team,
    is_tight: bool,
) -> None:
    """In memory and on disk; also to the next server, and without usage where that is refused."""
    server = own_server(KEYPORTAL_BODY_MEMORY=TIGHT) if is_tight else live
    model = serve_model("normal")
    many = ServedModel.objects.create(name=f"{team.slug}/many", team=team)
    for url, name in ((f"http://127.0.0.1:{free_port()}/v1", "none"), (fake.url, "normal")):
        upstream = Upstream.objects.create(name=secrets.token_hex(8), base_url=url)
        Route.objects.create(model=many, upstream=upstream, upstream_model=name)
    for size in (70_000, 3 * MEBIBYTE):
        body = conversation(model, size)
        assert server.request("POST", CHAT, key=key, body=body).status == 200
        assert_relayed(fake, body | {"model": "normal"})
        reply = server.request("POST", CHAT, key=key, body=body | {"stream": True})
        assert b"[DONE]" in reply.body
        asked = {"stream": True, "stream_options": {"include_usage": True}}
        assert_relayed(fake, body | asked | {"model": "normal"})
        for _ in range(4):
            reply = server.request("POST", CHAT, key=key, body=body | {"model": many.name})
            assert reply.json()["choices"][0]["message"]["content"] == TEXT
            assert_relayed(fake, body | {"model": "normal"})


def test_large_body_reaches_the_demo_model(live: Server, key: str) -> None:
    body = chat_body("public/demo", user=text(100_000))
    upstream = Upstream.objects.create(name="demo", base_url=BUILT_IN_URL)
    served = ServedModel.objects.create(name="public/demo")
    Route.objects.create(model=served, upstream=upstream, upstream_model="demo")
    assert live.request("POST", CHAT, key=key, body=body).status == 200


def test_memory_comes_back_however_a_call_ends(
    own_server: OwnServer, key: str, alice: User, issue: Issue, serve_model: Serve
) -> None:
    """Each body is larger than all memory and all room on disk, where it waits for the model
    server. So it waits as long as any other one has some of it, and gets 503 in the end."""
    server = own_server(KEYPORTAL_BODY_MEMORY=ALL, KEYPORTAL_BODY_DISK=ALL)
    large = text(LARGER_THAN_ALL)
    for model, status in [
        ("normal", 200),
        ("status:400", 400),
        ("status:500", 500),
        ("status:401", 502),
        ("hang_up", 502),
        ("half", 502),
    ]:
        for stream in (False, True):
            body = chat_body(serve_model(model, f"m-{secrets.token_hex(4)}"), prompt=large)
            reply = server.request("POST", CHAT, key=key, body=body | {"stream": stream})
            assert reply.status == status or (model == "half" and stream), model
    name = serve_model("normal")
    for wrong, status in [
        (json.dumps(chat_body("public/unknown", prompt=large)).encode(), 404),
        (json.dumps(chat_body(name, prompt=large)).encode()[:-1], 400),
        (json.dumps(chat_body(name, prompt=large)).encode() + b"\xff", 400),
        (json.dumps({"prompt": large}).encode(), 400),
        (json.dumps(chat_body(large)).encode(), 400),
    ]:
        headers = {"Content-Type": "application/json"}
        assert server.request("POST", CHAT, key=key, body=wrong, headers=headers).status == status
    leave_while_the_body_arrives(server, key)
    leave_while_waiting_for_the_answer(server, key, serve_model("stall"), large)
    delete_key_while_the_body_arrives(server, alice, issue)
    send_uploads(server, key, name)
    assert server.request("POST", CHAT, key=key, body=chat_body(name, prompt=large)).status == 200
    assert "Traceback" not in server.log


def send_uploads(server: Server, key: str, name: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    more = [f"{name}: {value}" for name, value in headers.items()]
    for model, end, status in [
        (name, b"--b--\r\n", 200),
        ("public/unknown", b"--b--\r\n", 404),
        (name, b"--b", 400),
        (name, b"--b--\r\n", 200),
    ]:
        form = (
            f'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n--b\r\n'
            'Content-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n'
        ).encode()
        body = form + b"x" * LARGER_THAN_ALL + b"\r\n" + end
        reply = server.request("POST", UPLOAD, key=key, body=body, headers=headers)
        assert reply.status == status
        with server.connect() as connection:  # It leaves while the form arrives.
            length = f"Content-Length: {len(body)}"
            connection.send(head(f"POST {UPLOAD}", key, None, length, *more), body[:400_000])


def leave_while_the_body_arrives(server: Server, key: str) -> None:
    for size in (1000, 200_000):
        with server.connect() as connection:
            connection.send(head(f"POST {CHAT}", key, LARGER_THAN_ALL), b"x" * size)
        with server.connect() as connection:
            chunk = b"%x\r\n%b\r\n" % (size, b" " * size)
            more = ("Transfer-Encoding: chunked", "Content-Type: application/json")
            connection.send(head(f"POST {CHAT}", key, None, *more), chunk)


def leave_while_waiting_for_the_answer(server: Server, key: str, model: str, large: str) -> None:
    with server.connect() as connection:
        connection.chat(key, model, prompt=large)
        time.sleep(0.5)  # It may leave before or after the body has arrived.


def delete_key_while_the_body_arrives(server: Server, alice: User, issue: Issue) -> None:
    made, other = issue(alice, "other")
    with server.connect() as connection:
        connection.send(head(f"POST {CHAT}", other, LARGER_THAN_ALL), b"x" * 100_000)
        made.revoke(actor=alice)
        assert connection.read_head().status == 401


def test_key_that_floods_waits_and_others_do_not(
    own_server: OwnServer,
    key: str,
    bob: User,
    issue: Issue,
    serve_model: Serve,
    fake: FakeUpstream,
) -> None:
    server = own_server(KEYPORTAL_BODY_MEMORY=TIGHT)
    model = serve_model("normal")
    size = 2 * MEBIBYTE - 1000  # All that the key may have.
    body = json.dumps(chat_body(model, prompt="x y " * (size // 4 - 100))).encode()
    _, other = issue(bob, "other")
    with ThreadPoolExecutor(1) as threads, server.connect() as first, server.connect() as second:
        first.send(head(f"POST {CHAT}", key, len(body)), body[:MEBIBYTE])
        time.sleep(0.5)  # For the first to be the first; in the other order the test says less.
        sending = threads.submit(second.send, head(f"POST {CHAT}", key, len(body)), body)
        small = server.request("POST", CHAT, key=key, body=chat_body(model))
        assert small.status == 200  # Small bodies of the same key pass.
        large = server.request(
            "POST", CHAT, key=other, body=chat_body(model, prompt="x y " * 200_000)
        )
        assert large.status == 200
        assert len(fake.received) == 2
        first.send(body[MEBIBYTE:])
        assert first.reply().status == 200
        assert second.reply().status == 200
        sending.result()

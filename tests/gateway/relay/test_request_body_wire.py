"""Bodies as clients and attackers send them, through the real server to a model server."""

import gzip
import json
import random
import subprocess
import sys
import zlib
from collections.abc import Callable

import pytest
from django.conf import settings
from django.test import Client

from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.model_responses import TEXT
from tests.support.server import Server, chat_body

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
CHAT = "/v1/chat/completions"
MEBIBYTE = 1024 * 1024


@pytest.fixture
def key(alice: User, issue: Issue) -> str:
    return issue(alice)[1]


def assert_relayed(fake: FakeUpstream, body: dict[str, object]) -> None:
    """Whatever the caller's headers were, the model server gets plain JSON."""
    (received,) = fake.received
    assert json.loads(received.body) == body
    assert received.headers["Content-Type"] == "application/json"
    assert received.headers["Content-Length"] == str(len(received.body))
    assert "Content-Encoding" not in received.headers


@pytest.mark.parametrize(
    "curl",
    [
        "-d @-",
        "-H 'Content-Type: text/plain' -d @-",
        "-H 'Content-Type:' -d @-",
        "-H 'Content-Type: application/vnd.api+json' -d @-",
        "-H 'Content-Type: application/json' -H 'Transfer-Encoding: chunked' -d @-",
    ],
)
def test_json_with_any_content_type_is_relayed(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream, curl: str
) -> None:
    command = f"curl --silent --show-error '{live.url}{CHAT}' -H 'x-api-key: {key}' {curl}"
    body = chat_body(serve_model("normal"), metadata={"é": "ü"})
    sent = json.dumps(body, ensure_ascii=False)
    done = subprocess.run(
        ["sh", "-c", command], input=sent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == TEXT
    assert_relayed(fake, body | {"model": "normal"})


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_cross_site_form_cannot_call_models(
    live: Server, alice: User, client: Client, serve_model: Serve, media_type: str
) -> None:
    """Attack: a browser sends these types to other sites without a preflight, with cookies."""
    client.force_login(alice)
    session = client.cookies[settings.SESSION_COOKIE_NAME].value
    headers = {"Cookie": f"{settings.SESSION_COOKIE_NAME}={session}", "Content-Type": media_type}
    body = json.dumps(chat_body(serve_model("normal"))).encode()
    reply = live.request("POST", CHAT, body=body, headers=headers)
    assert (reply.status, reply.code) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("coding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstd.compress)],
)
def test_compressed_body_is_relayed_decoded(
    live: Server,
    key: str,
    serve_model: Serve,
    fake: FakeUpstream,
    coding: str,
    compress: Callable[[bytes], bytes],
) -> None:
    text = random.Random(7).randbytes(MEBIBYTE).hex()
    body = chat_body(serve_model("normal"), user=text)
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    compressed = compress(json.dumps(body).encode())
    reply = live.request("POST", CHAT, key=key, body=compressed, headers=headers)
    assert reply.status == 200
    assert_relayed(fake, body | {"model": "normal"})
    bomb = compress(b" " * 21 * MEBIBYTE)
    reply = live.request("POST", CHAT, key=key, body=bomb, headers=headers)
    assert (reply.status, reply.code) == (400, "invalid_request")
    reply = live.request("POST", CHAT, key=key, body=compressed[:-1], headers=headers)
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert len(fake.received) == 1


def test_compressed_form_is_relayed_decoded(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="'
    form = head + b'model"\r\n\r\n' + serve_model("normal").encode() + b"\r\n"
    form += head + b'file"; filename="a"\r\n\r\nsound\r\n--b--\r\n'
    headers = {
        "Content-Type": "multipart/form-data; boundary=b",
        "Content-Encoding": "gzip",
    }
    path = "/v1/audio/transcriptions"
    reply = live.request("POST", path, key=key, body=gzip.compress(form), headers=headers)
    assert reply.json()["text"] == TEXT
    assert b"sound" in fake.received[0].body


AZURE = "/openai/deployments/{model}/chat/completions?api-version=2024-10-21"


@pytest.mark.parametrize("path", [CHAT, AZURE, "/v1/responses", "/v1/messages", "/v1/embeddings"])
def test_model_of_another_team_in_another_spelling_is_refused(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream, path: str
) -> None:
    """Attack: a model server in Go reads the second field."""
    model = serve_model("normal")
    for name in ("MODEL", "Stream", "\u017ftream"):
        body = chat_body(model, **{name: "another team's"})
        reply = live.request("POST", path.format(model=model), key=key, body=body)
        assert reply.status == 400
        assert "too similar" in reply.json()["error"]["message"]
    assert not fake.received

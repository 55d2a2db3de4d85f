"""Every refusal: its status, code and headers, and whether the connection stays open."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.test import Client
from django.utils import timezone

from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Permissions
from keyportal.teams.models import Membership, Role, Team, User
from tests.conftest import PASSWORD
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.lazy import LazyModule
from tests.support.server import CHAT, Reply, Server, chat_body, head

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
OwnServer = Callable[..., Server]
LIMIT = 100_000


def assert_refused(reply: Reply, status: int, code: str) -> None:
    """In OpenAI's shape, with a request id, without CORS headers and without the key."""
    assert (reply.status, reply.code) == (status, code)
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    assert not [name for name in reply.headers if name.startswith("access-control-")]
    assert b"sk-kp-" not in reply.body


def bad_keys(team: Team, alice: User, issue: Issue) -> dict[str, str]:
    """One key for each reason why a key is invalid, by the name of the reason."""
    team.max_keys = 50
    team.save(update_fields=["max_keys"])
    keys = {"malformed": "not-one-of-ours", "unknown": keystring.generate().text}
    deleted, keys["deleted"] = issue(alice, "deleted")
    deleted.revoke(actor=alice)
    past = timezone.now() - timedelta(seconds=1)
    _, keys["expired"] = issue(alice, "expired", expires_at=past)
    disabled, keys["disabled"] = issue(alice, "disabled")
    ApiKey.objects.filter(pk=disabled.pk).update(disabled_at=past, disabled_by="owner")
    rotated, keys["secret expired"] = issue(alice, "rotated")
    rotated.secrets.update(expires_at=past)
    for name in ("left", "deactivated"):
        owner = User.objects.create_user(name)
        member = Membership.objects.create(team=team, user=owner, role=Role.MEMBER)
        _, keys[name] = issue(owner, name)
        member.delete() if name == "left" else User.objects.filter(pk=owner.pk).update(
            is_active=False
        )
    inactive = Team.objects.create(name="Off", is_active=False)
    Membership.objects.create(team=inactive, user=alice, role=Role.OWNER)
    _, keys["team off"] = issue(alice, "team off", team=inactive)
    return keys


def test_all_invalid_keys_get_the_same_response(
    live: Server, team: Team, alice: User, issue: Issue, model: ServedModel
) -> None:
    """Byte for byte, with headers. Attack: a thief learns why a key is invalid."""
    keys = bad_keys(team, alice, issue)
    answers = {}
    for kind, key in keys.items():
        with live.connect() as connection:
            connection.chat(key, model.name)
            reply = connection.reply()
        assert_refused(reply, 401, "invalid_api_key")
        challenge = 'Bearer realm="keyportal", error="invalid_token"'
        assert reply.headers["www-authenticate"] == challenge
        varying = {"x-request-id", "date"}
        headers = [(n, v) for n, v in reply.headers.items() if n not in varying]
        answers[kind] = (reply.status, headers, reply.body)
    assert len(keys) == 9
    assert all(answer == answers["malformed"] for answer in answers.values()), answers


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}, {"Authorization": ""}],
    ids=["none", "another scheme", "no token", "empty"],
)
def test_without_credentials(live: Server, headers: dict[str, str]) -> None:
    """RFC 6750, 3.1: without credentials, the challenge names no error."""
    reply = live.request("GET", "/v1/models", headers=headers)
    assert_refused(reply, 401, "invalid_api_key")
    assert reply.headers["www-authenticate"] == 'Bearer realm="keyportal"'
    assert "Authorization: Bearer" in reply.json()["error"]["message"]


def test_scheme_is_case_insensitive(live: Server, alice: User, issue: Issue) -> None:
    _, key = issue(alice)
    for sent in (f"bearer {key}", f"BEARER  {key} "):
        assert live.request("GET", "/v1/models", headers={"Authorization": sent}).status == 200


def test_two_authorization_headers_are_refused(live: Server, alice: User, issue: Issue) -> None:
    _, key = issue(alice)
    with live.connect() as connection:
        connection.send_request("GET /v1/models", key, None, f"Authorization: Bearer {key}")
        status = connection.read_head().status
    assert status in {400, 401}


def test_key_is_read_from_its_header_only(live: Server, alice: User, issue: Issue) -> None:
    _, key = issue(alice)
    for query in (f"api_key={key}", f"access_token={key}", f"key={key}"):
        reply = live.request("GET", f"/v1/models?{query}")
        assert_refused(reply, 401, "invalid_api_key")
    for name in ("X-Api-Key", "Api-Key", "Proxy-Authorization", "Cookie"):
        reply = live.request("GET", "/v1/models", headers={name: f"Bearer {key}"})
        assert_refused(reply, 401, "invalid_api_key")


def test_session_and_key_open_different_applications(
    live: Server, alice: User, issue: Issue, client: Client
) -> None:
    _, key = issue(alice)
    assert client.login(username="alice", password=PASSWORD)
    cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
    page = f"/teams/{alice.memberships.get().team.slug}/keys/"
    assert live.request("GET", page, headers={"Cookie": cookie}).status == 200
    assert_refused(
        live.request("GET", "/v1/models", headers={"Cookie": cookie}), 401, "invalid_api_key"
    )
    for path in ("/", page, "/admin/"):
        reply = live.request("GET", path, key=key)
        assert reply.status == 302
        assert "login" in reply.headers["location"]


def test_models_that_a_key_may_not_call(
    live: Server, alice: User, issue: Issue, model: ServedModel, other_team: Team
) -> None:
    """Another team's model is answered like one that doesn't exist."""
    theirs = ServedModel.objects.create(name="u-0000000000cc/theirs", team=other_team)
    Route.objects.create(
        model=theirs, upstream=Upstream.objects.get(name="loopback"), upstream_model="loopback"
    )
    _, key = issue(alice)
    _, narrow = issue(alice, "narrow", permissions=Permissions(("public/other",)))
    nothing = "u-0000000000cc/nothing"
    unknown = live.chat(key, nothing)
    assert_refused(unknown, 404, "model_not_found")
    hidden = live.chat(key, theirs.name)
    named = unknown.body.replace(nothing.encode(), theirs.name.encode())
    assert (hidden.status, hidden.body) == (404, named)
    assert live.request("GET", f"/v1/models/{theirs.name}", key=key).status == 404
    assert theirs.name.encode() not in live.request("GET", "/v1/models", key=key).body
    assert_refused(live.chat(narrow, model.name), 403, "model_not_allowed")
    assert live.chat(narrow, theirs.name).status == 404


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/nothing", "/v1/chat/completions/../models", "/v1/v1/nothing",
     "/v1/%2e%2e/models", "/v1//../models", "/v1/chat%00/completions", "/v1/MODELS"],
)  # fmt: skip
def test_unknown_paths(live: Server, alice: User, issue: Issue, path: str) -> None:
    _, key = issue(alice)
    with live.connect() as connection:  # A client library would normalize the path.
        connection.send_request(f"GET {path}", key)
        assert_refused(connection.reply(), 404, "unknown_url")
        connection.send_request(f"GET {path}")
        assert_refused(connection.reply(), 401, "invalid_api_key")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/u-8105f7322477/test", "GET, HEAD"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("TRACE", "/v1/models", "GET, HEAD"),
    ],
)
def test_wrong_methods(
    live: Server, alice: User, issue: Issue, method: str, path: str, allowed: str
) -> None:
    _, key = issue(alice)
    reply = live.request(method, path, key=key)
    assert_refused(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == allowed


def test_head_is_refused_without_a_body(live: Server, alice: User, issue: Issue) -> None:
    _, key = issue(alice)
    with live.connect() as connection:
        connection.send_request(f"HEAD {CHAT}", key)
        assert connection.read_head().status == 405
        connection.send_request("GET /v1/models", key)
        assert connection.reply().status == 200


def test_cors_preflight_is_refused(live: Server) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert_refused(live.request("OPTIONS", CHAT, headers=headers), 401, "invalid_api_key")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_request"),
        (b"{", "invalid_request"),
        (b"[]", "invalid_request"),
        (b'"text"', "invalid_request"),
        (b"null", "invalid_request"),
        (b"\xff\xfe{}", "invalid_request"),
        (b'{"model": "a"} {}', "invalid_request"),
        (b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "invalid_request"),
        (b"{}", "missing_required_parameter"),
        (b'{"model": null}', "missing_required_parameter"),
        (b'{"model": ["a"]}', "missing_required_parameter"),
        (b'{"model": "\xff"}', "invalid_request"),
    ],
)
def test_bodies_without_a_valid_model(
    live: Server, alice: User, issue: Issue, body: bytes, code: str
) -> None:
    _, key = issue(alice)
    with live.connect() as connection:
        connection.send_request(f"POST {CHAT}", key, body)
        assert_refused(connection.reply(), 400, code)
        # After a refusal the connection can be reused.
        connection.send_request("GET /v1/models", key)
        assert connection.reply().status == 200


@pytest.mark.parametrize(
    "content",
    [rb'"\ud800"', b'"\xff"', b"7", b"[" * 900 + b"]" * 900],
    ids=["surrogate", "not UTF-8", "number", "deep"],
)
def test_built_in_model_refuses_invalid_bodies(
    live: Server, alice: User, issue: Issue, model: ServedModel, content: bytes
) -> None:
    _, key = issue(alice)
    body = b'{"model": "%s", "messages": [{"role": "user", "content": %s}]}'
    with live.connect() as connection:
        connection.send_request(f"POST {CHAT}", key, body % (model.name.encode(), content))
        assert_refused(connection.reply(), 400, "invalid_request")


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Type: text/html"],
        ["Content-Type: multipart/form-data; boundary=b"],
        ["Content-Type: application/json", "Content-Encoding: br"],
        ["Content-Type: application/json", "Content-Encoding: gzip, gzip"],
    ],
)
def test_other_media_types_and_codings_are_refused(
    live: Server, alice: User, issue: Issue, model: ServedModel, headers: list[str]
) -> None:
    _, key = issue(alice)
    body = json.dumps(chat_body(model.name)).encode()
    with live.connect() as connection:
        for _ in range(2):
            connection.send_request(
                f"POST {CHAT}", key, None, *headers, f"Content-Length: {len(body)}"
            )
            connection.send(body)
            assert_refused(connection.reply(), 415, "unsupported_media_type")
        connection.send_request(
            f"POST {CHAT}",
            key,
            None,
            "Content-Type: Application/JSON; charset=utf-8",
            f"Content-Length: {len(body)}",
        )
        connection.send(body)
        assert connection.reply().status == 200


def test_bodies_over_the_limit(own_server: OwnServer, alice: User, issue: Issue) -> None:
    """Refused by their Content-Length, or without one as soon as they exceed the limit."""
    server = own_server(KEYPORTAL_MAX_BODY_BYTES=str(LIMIT))
    _, key = issue(alice)
    json_type = "Content-Type: application/json"
    with server.connect() as connection:
        connection.send_request(f"POST {CHAT}", key, b"x" * LIMIT)
        assert_refused(connection.reply(), 400, "invalid_request")
        connection.send_request(f"POST {CHAT}", key, b"x" * (LIMIT + 1))
        assert_refused(connection.reply(), 413, "request_too_large")
    with server.connect() as connection:
        connection.send_request(f"POST {CHAT}", key, None, json_type, "Transfer-Encoding: chunked")
        for _ in range(3):
            connection.send(f"{LIMIT // 2:x}\r\n".encode(), b"x" * (LIMIT // 2), b"\r\n")
        assert_refused(connection.reply(), 413, "request_too_large")
    # The official client sends the whole body before it reads, and must still read the error.
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as ai:
        for size in (LIMIT, 5_000_000):
            with pytest.raises(openai.APIStatusError) as raised:
                ai.embeddings.create(model="any", input="x" * size)
            assert raised.value.status_code == 413


def test_client_that_is_still_sending_reads_the_error(live: Server) -> None:
    """If the server closed while 5 MB are being sent, TCP would reset the connection."""
    key = "sk-kp-" + "x" * 46
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0) as ai:
        for _ in range(20):
            with pytest.raises(openai.AuthenticationError):
                ai.embeddings.create(model="any", input="x" * 5_000_000)


def test_client_that_expects_100_continue_gets_the_error_or_is_told_to_go_on(
    live: Server, alice: User, issue: Issue, model: ServedModel
) -> None:
    body = json.dumps(chat_body(model.name)).encode()

    with live.connect() as connection:
        connection.send(_expecting(None, len(body)))
        assert_refused(connection.reply(), 401, "invalid_api_key")
    _, key = issue(alice)
    with live.connect() as connection:
        connection.send(_expecting(key, len(body)))
        assert connection.read_head().status == 100
        connection.send(body)
        assert connection.reply().status == 200


def _expecting(key: str | None, length: int) -> bytes:
    return head(f"POST {CHAT}", key, length, "Expect: 100-continue")


def test_small_refusals_keep_the_connection(
    live: Server, alice: User, issue: Issue, model: ServedModel
) -> None:
    _, key = issue(alice)
    body = json.dumps(chat_body(model.name)).encode()
    with live.connect() as connection:
        for sent, status in ((None, 401), ("nonsense", 401), (key, 200), (None, 401), (key, 200)):
            connection.send_request(f"POST {CHAT}", sent, body)
            reply = connection.reply()
            assert reply.status == status
            assert "connection" not in reply.headers


def test_refused_large_body_closes_the_connection(live: Server) -> None:
    with live.connect() as connection:
        connection.send_request(f"POST {CHAT}", None, b"x" * 1_000_000)
        reply = connection.reply()
        assert_refused(reply, 401, "invalid_api_key")
        assert reply.headers["connection"] == "close"


def test_refused_call_reaches_no_upstream(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    name = serve_model("echo")
    revoked, key = issue(alice)
    revoked.revoke(actor=alice)
    _, narrow = issue(alice, "narrow", permissions=Permissions(("public/other",)))
    for sent in (key, narrow, None, "nonsense"):
        assert live.chat(sent, name).status in {401, 403}
    assert fake.received == []

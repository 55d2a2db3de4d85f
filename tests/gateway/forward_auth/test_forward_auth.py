"""`/auth/verify`: verdicts for proxies about the original request."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import unquote

import pytest
from django.utils import timezone

from keyportal.catalog.models import ServedModel
from keyportal.gateway.error_middleware import UNAUTHORIZED_DELAY_SECONDS
from keyportal.gateway.forward_auth import original_request
from keyportal.gateway.forward_auth.app import VERIFY_PATH, ForwardAuth, is_verification
from keyportal.http.types import Message
from keyportal.keys import changes, keystring
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.usage.models import Call
from tests.support.asgi import Client, scope
from tests.support.clock import ensure_time_left
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.server import CHAT, Reply, Server, head, wait_until

pytestmark = pytest.mark.any_database

Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
OwnServer = Callable[..., Server]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND")


def verify(server: Server, key: str | None, path: str = "", **headers: str) -> Reply:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.request("GET", VERIFY_PATH + path, key=key, headers=sent)


@pytest.mark.gateway
def test_valid_key_is_verified_with_any_method_and_path_below(
    live: Server, alice: User, team: Team, issue: Issue
) -> None:
    api_key, key = issue(alice)
    for method in METHODS:
        for path in ("", "/", CHAT, "/v1/chat/completions?a=b", "/../x", "/%00%ff"):
            reply = live.request(method, VERIFY_PATH + path, key=key)
            assert (reply.status, reply.body) == (200, b"")
            assert reply.headers["x-keyportal-team"] == team.slug
            assert reply.headers["x-keyportal-key"] == api_key.public_id
            assert reply.headers["cache-control"] == "no-store"
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert key not in str(reply)
    for header in ("x-api-key", "api-key"):
        assert live.request("GET", VERIFY_PATH, headers={header: key}).status == 200


@pytest.mark.gateway
def test_every_bad_key_gets_the_401_of_v1_without_names(
    live: Server, alice: User, issue: Issue
) -> None:
    deleted, first = issue(alice, "deleted")
    disabled, second = issue(alice, "disabled")
    _, third = issue(alice, "expired", expires_at=timezone.now() + timedelta(hours=1))
    ApiKey.objects.filter(name="expired").update(expires_at=timezone.now())
    deleted.revoke(actor=alice)
    changes.disable(disabled, actor=alice, address=None)
    for key in (None, "", "nonsense", keystring.generate().text, first, second, third):
        reply = verify(live, key, X_Keyportal_Team="u-8105f7322477", X_Request_Id="mine")
        direct = live.request("GET", "/v1/models", key=key)
        assert (reply.status, reply.json()) == (401, direct.json())
        assert reply.headers["www-authenticate"] == direct.headers["www-authenticate"]
        assert json.loads(reply.headers["x-keyportal-refusal"]) == reply.json()
        assert reply.headers["x-request-id"] == "mine"
        assert "x-keyportal-team" not in reply.headers
        assert "x-keyportal-key" not in reply.headers


@pytest.mark.gateway
def test_bad_keys_through_a_proxy_are_throttled(
    live: Server,
) -> None:
    with live.connect() as connection:
        began = time.monotonic()
        for _ in range(20):
            connection.send_request(f"GET {VERIFY_PATH}", "nonsense")
            assert connection.reply().status == 401
        assert time.monotonic() - began >= 20 * UNAUTHORIZED_DELAY_SECONDS


@pytest.mark.gateway
def test_an_access_log_names_each_verification_and_no_key(
    own_server: OwnServer, alice: User, issue: Issue
) -> None:
    key = issue(alice)[1]
    server = own_server(GUNICORN_CMD_ARGS="--access-logfile -")
    assert verify(server, key, f"?key={key}").status == 200
    wait_until(lambda: f'"GET {VERIFY_PATH}?key=' in server.log)
    assert key not in server.log


@pytest.mark.gateway
def test_session_is_not_accepted(live: Server, alice: User) -> None:
    assert live.request("GET", VERIFY_PATH, headers={"Cookie": "sessionid=abc"}).status == 401


# Bodies.


def test_body_is_not_read() -> None:
    async def receive() -> Message:
        raise AssertionError

    client = Client()
    request = scope(VERIFY_PATH, "POST", [(b"content-length", b"1000000")])
    asyncio.run(ForwardAuth()(request, receive, client.send))
    assert client.headers[b"connection"] == b"close"


@pytest.mark.gateway
@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.parametrize("announced", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_announced_body_is_not_awaited(
    live: Server, alice: User, issue: Issue, announced: str, status: int
) -> None:
    """As nginx does by default: with the length of a body that it does not send."""
    key = issue(alice)[1] if status == 200 else "nonsense"

    with live.connect() as connection:
        connection.send_request(f"POST {VERIFY_PATH}", key, None, announced)
        reply = connection.reply()
        assert (reply.status, reply.headers["connection"]) == (status, "close")
        assert connection.is_closed()


@pytest.mark.gateway
def test_body_is_never_parsed_as_a_request(live: Server, alice: User, issue: Issue) -> None:
    """Attack: a body that contains a request, on a connection that a proxy shares."""
    victim, key = issue(alice, "victim")
    smuggled = head("GET /v1/models", key, None)
    for length in (len(smuggled), len(smuggled) + 1):
        with live.connect() as connection:
            connection.send(head(f"GET {VERIFY_PATH}", "nonsense", length))
            assert connection.reply().status == 401
            connection.send(smuggled)
            assert connection.is_closed()
        with live.connect() as connection:
            connection.send(head(f"GET {VERIFY_PATH}", "nonsense", length), smuggled)
            assert connection.reply().status == 401
            assert connection.is_closed()
    time.sleep(0.5)
    assert victim.secrets.get().last_used_at is None


@pytest.mark.gateway
def test_connections_without_bodies_are_used_again(live: Server, alice: User, issue: Issue) -> None:
    _, key = issue(alice)
    with live.connect() as connection:
        for shown, status in ((key, 200), ("nonsense", 401)) * 5:
            connection.send_request(f"GET {VERIFY_PATH}", shown, None, "Content-Length: 0")
            reply = connection.reply()
            assert reply.status == status
            assert "connection" not in reply.headers


# Permissions.


@pytest.mark.gateway
def test_model_is_checked_if_the_proxy_names_it(
    live: Server, alice: User, other_team: Team, model: ServedModel, issue: Issue
) -> None:
    theirs = ServedModel.objects.create(name=f"{other_team.slug}/theirs", team=other_team)
    public = ServedModel.objects.create(name="public/without-a-route")
    _, wide = issue(alice, "wide")
    _, narrow = issue(alice, "narrow", permissions=Permissions(("public/*",)))
    for key, name, code in (
        (wide, model.name, ""),
        (wide, public.name, ""),
        (wide, theirs.name, "permission_denied"),
        (wide, "public/nothing", "permission_denied"),
        (wide, "", "permission_denied"),
        (narrow, public.name, ""),
        (narrow, model.name, "model_not_allowed"),
        (narrow, "public/nothing", "permission_denied"),
    ):
        reply = verify(live, key, X_Keyportal_Model=name)
        assert (reply.status, code and reply.code) == (403 if code else 200, code)
    assert verify(live, narrow).status == 200
    hidden, missing = (
        verify(live, wide, X_Keyportal_Model=name) for name in (theirs.name, "u-0000000000cc/no")
    )
    assert hidden.json() == missing.json()


@pytest.mark.gateway
def test_of_two_models_both_must_be_allowed(
    live: Server, alice: User, model: ServedModel, issue: Issue
) -> None:
    """A proxy may add its own header after the caller's, so both are there."""
    ServedModel.objects.create(name="public/small")
    _, narrow = issue(alice, permissions=Permissions(("public/*",)))
    for names in (("public/small", model.name), (model.name, "public/small")):
        with live.connect() as connection:
            connection.send_request(
                f"GET {VERIFY_PATH}", narrow, None, *(f"X-Keyportal-Model: {n}" for n in names)
            )
            assert connection.reply().status == 403


@pytest.mark.gateway
def test_long_refusal_is_in_the_body_only(
    live: Server, alice: User, model: ServedModel, issue: Issue
) -> None:
    ServedModel.objects.create(name="public/größe")
    names = tuple(f"public/{'x' * 100}-{number}" for number in range(50))
    _, key = issue(alice, permissions=Permissions(names))
    for shown in (model.name, "public/größe".encode().decode("latin-1")):
        reply = verify(live, key, X_Keyportal_Model=shown)
        assert (reply.status, reply.code) == (403, "model_not_allowed")
        line = reply.headers["x-keyportal-refusal"]
        assert json.loads(line)["error"]["code"] == "permission_denied"
        assert len(line) < 1000


@pytest.mark.gateway
def test_a_key_for_some_endpoints_passes_to_those_alone(
    live: Server, alice: User, issue: Issue
) -> None:
    _, chat = issue(alice, "chat", permissions=Permissions(endpoints=Endpoints.CHAT))
    for headers, status in (
        ({}, 403),
        ({"X_Original_URI": CHAT + "?a=b", "X_Original_Method": "POST"}, 200),
        ({"X_Forwarded_Uri": CHAT, "X_Forwarded_Method": "POST"}, 200),
        ({"X_Original_URL": f"https://llm.example.com{CHAT}"}, 200),
        ({"X_Forwarded_Uri": "/v1/embeddings"}, 403),
        ({"X_Forwarded_Uri": CHAT, "X_Original_URI": "/v1/embeddings"}, 403),
        ({"X_Forwarded_Uri": CHAT, "X_Forwarded_Method": "DELETE"}, 403),
    ):
        assert verify(live, chat, **headers).status == status, headers
    assert live.request("POST", VERIFY_PATH + CHAT, key=chat).status == 200
    assert live.request("POST", f"{VERIFY_PATH}/v1/embeddings", key=chat).status == 403
    assert live.request("DELETE", VERIFY_PATH + CHAT, key=chat).status == 403


def told(kind: str, uri: str, method: str = "", path: str = VERIFY_PATH) -> bool:
    headers = [(b"x-original-uri", uri.encode())]
    if method:
        headers.append((b"x-original-method", method.encode()))
    return original_request.is_allowed(scope(path, headers=headers), VERIFY_PATH, kind)


@pytest.mark.parametrize(
    "uri",
    [
        "/v1/key",
        "/v1/models",
        "/v1/models?x=1",
        "/v1/models/public/a-1.5:b",
        "https://llm.example.com:8443/v1/models?x=https://y/v1/z",
        "HTTP://[::1]/v1/models",
    ],
)
def test_every_key_may_read_itself_and_list_models(uri: str) -> None:
    for kind in ("read", "chat", "embeddings"):
        assert told(kind, uri)
        assert told(kind, uri, "GET")
        assert not told(kind, uri, "DELETE")


@pytest.mark.parametrize(
    "uri",
    ["", "/", "*", "/v1/models/", "/v1/models/../chat/completions", "/v1/models/%2e%2e/x",
     "/v1/models/%252e%252e/x", "/v1/models/./x", "/v1/models//x", "//v1/models", "/V1/models",
     "/v1/models;x/a", "/v1/models%00", "/v1/models\\..\\x", "/v1/models#/x", "/v1/modelsx",
     "https:/v1/models", "/v1/models/é", "/v1/chat/completions", "/v1/rerank",
     "https://x/v1/models/../a", "/v1/models/%3f/../chat/completions", "/x/v1/models",
     "/v1/modelshttp://x%2f..%2f..%2fchat%2fcompletions", "/v1/modelshttp://x/v1/models",
     "/v1/models/http://x/v1/models", "http://http://x/v1/models", "https://u@x/v1/models",
     "x/v1/models", " /v1/models", "/v1/models\t", "/v1/models\n", "/v1/models%0a", "/v1/%6dodels",
     "/v1/models/public%2Fsmall", "/v1/models/a%5cb", "/v1/models/a%2e", "https://x", "https:///"],
)  # fmt: skip
def test_unusual_path_is_not_a_list_of_models(uri: str) -> None:
    assert not told("read", uri)


def test_stored_answers_are_not_for_keys_with_limited_endpoints() -> None:
    """Attack: another team's answer is read by its id. Keyportal does not know whose it is here."""
    for path in ("/v1/responses/resp_1", "/v1/responses/resp_1/cancel"):
        for method in ("GET", "DELETE", "POST"):
            assert not told("chat", path, method)


@pytest.mark.parametrize(
    "attack",
    [
        "/v1/embeddingshttp://x%2f..%2f..%2fchat%2fcompletions",
        "/v1/embeddings/..%2fchat/completions",
    ],
)
def test_path_with_an_origin_inside_is_no_endpoint(attack: str) -> None:
    assert told("embeddings", "/v1/embeddings", "POST")
    assert not told("embeddings", attack, "POST")
    decoded = unquote(attack)
    for path in (attack, decoded):
        sent = scope(VERIFY_PATH + decoded, "POST", raw_path=f"{VERIFY_PATH}{path}".encode())
        assert not original_request.is_allowed(sent, VERIFY_PATH, "embeddings")


def test_what_envoy_appends_is_not_decoded() -> None:
    path = f"{VERIFY_PATH}/v1/models"
    for raw_path in (f"{VERIFY_PATH}/v1%2fmodels", "/auth%2fverify/v1/models"):
        sent = scope(path, raw_path=raw_path.encode())
        assert not original_request.is_allowed(sent, VERIFY_PATH, "read")
    assert original_request.is_allowed(scope(path), VERIFY_PATH, "read")


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("/chat/completions", "chat"),
        ("/v1/v1/chat/completions", "chat"),
        ("/openai/v1/embeddings", "embeddings"),
        ("/embeddings?x=1", "embeddings"),
        ("/openai/deployments/public/small/embeddings?api-version=1", "embeddings"),
        ("/openai/deployments/embeddings/chat/completions", "chat"),
        ("/messages", "chat"),
    ],
)
def test_other_path_of_an_endpoint_is_judged_like_the_endpoint(uri: str, kind: str) -> None:
    assert told(kind, uri, "POST")
    assert not told(kind, uri, "GET")
    for other in {"chat", "embeddings", "read"} - {kind}:
        assert not told(other, uri, "POST")


@pytest.mark.parametrize(
    "uri",
    ["//v1/chat/completions", "/v1//chat/completions", "/v1/chat/completions/",
     "/chat/completions/",
     "/v1/v1/../chat/completions", "/openai/deployments/a/../b/chat/completions",
     "/openai/deployments/a//chat/completions", "/openai/deployments/a%2fb/chat/completions",
     "/openai/deployments/chat/completions/x", "/v2/rerank", "/x/chat/completions",
     "/responses/resp_1", "/v1/responses/resp_1"],
)  # fmt: skip
def test_path_that_a_model_server_may_read_in_another_way_is_refused(uri: str) -> None:
    """Attack: the server behind the proxy gets the path as it is, and resolves it by its rules."""
    for kind in ("chat", "embeddings", "read"):
        assert not told(kind, uri, "POST")
        assert not told(kind, uri)


def test_what_envoy_appends_counts_as_well() -> None:
    assert not told("read", "/v1/models", path=VERIFY_PATH + CHAT)
    assert told("read", "/v1/models", path=f"{VERIFY_PATH}/v1/models")


@pytest.mark.parametrize("path", ["/auth/verify", "/auth/verify/", "/auth/verify/v1/x"])
def test_paths_below_are_verifications(path: str) -> None:
    assert is_verification(path)


@pytest.mark.parametrize("path", ["/auth/verifyx", "/auth", "", "/v1/auth/verify", "/auth/verify?"])
def test_other_paths_are_no_verifications(path: str) -> None:
    assert not is_verification(path)


@pytest.mark.gateway
def test_address_and_scheme_are_the_clients_only_where_the_proxy_is_trusted(
    live: Server, own_server: OwnServer, alice: User, issue: Issue
) -> None:
    _, key = issue(alice, permissions=Permissions(networks=("198.51.100.7/32",)))
    assert verify(live, key, X_Forwarded_For="198.51.100.7").status == 403
    trusting = own_server(
        KEYPORTAL_URL="https://keys.example.com", KEYPORTAL_TRUSTED_PROXIES="127.0.0.1"
    )
    https = {"X_Forwarded_Proto": "https"}
    for chain, status in (
        ("198.51.100.7", 200),
        ("192.0.2.66, 198.51.100.7", 200),
        ("198.51.100.7:4711", 200),
        ("198.51.100.7, 192.0.2.66", 403),
    ):
        assert verify(trusting, key, X_Forwarded_For=chain, **https).status == status
    _, local = issue(alice, "local", permissions=Permissions(networks=("127.0.0.0/8",)))
    for chain, status in (("127.0.0.1:4711", 200), ("unknown", 403), ("127.0.0.1, _x", 403)):
        assert verify(trusting, local, X_Forwarded_For=chain, **https).status == status
    _, anywhere = issue(alice, "anywhere")
    for proto, status in (("https", 200), ("http", 426), ("https, http", 426), ("", 426)):
        assert verify(trusting, anywhere, X_Forwarded_Proto=proto).status == status


# Limits and usage.


@pytest.mark.gateway
def test_a_verification_counts_against_the_same_limits_as_calls(
    live: Server, alice: User, model: ServedModel, issue: Issue
) -> None:
    _, key = issue(alice, limits=Limits(requests_per_day=3))
    assert live.chat(key, model.name).headers["x-ratelimit-remaining-requests"] == "2"
    assert verify(live, key).headers["x-ratelimit-remaining-requests"] == "1"
    # A refusal for the model counts too.
    assert verify(live, key, X_Keyportal_Model="public/no").status == 403
    reply, direct = verify(live, key), live.chat(key, model.name)
    assert (reply.status, reply.code) == (direct.status, direct.code) == (429, "insufficient_quota")
    assert reply.headers["x-should-retry"] == "false"
    _, busy = issue(alice, "busy", limits=Limits(requests_per_minute=1))
    ensure_time_left(15)
    while verify(live, busy).status != 429:
        pass
    reply = verify(live, busy)
    assert (reply.status, reply.code) == (429, "rate_limit_exceeded")
    assert 1 <= int(reply.headers["retry-after"]) <= 60
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.gateway
def test_verification_is_no_concurrent_call(
    live: Server, fake: FakeUpstream, alice: User, issue: Issue, serve_model: Serve
) -> None:
    _, key = issue(alice, limits=Limits(parallel_requests=1))
    waiting = serve_model("stall")
    with live.connect() as connection:
        connection.chat(key, waiting)
        wait_until(lambda: fake.received)
        statuses: Counter[int] = Counter()
        threads = [
            threading.Thread(target=lambda: statuses.update([verify(live, key).status]))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == {200: 20}
        assert live.chat(key, waiting).status == 429


@pytest.mark.gateway
def test_verifications_are_usage_without_tokens(
    live: Server, alice: User, model: ServedModel, issue: Issue
) -> None:
    api_key, key = issue(alice)
    verify(live, key, User_Agent="a-proxy", X_Keyportal_Model=model.name)
    verify(live, key, X_Keyportal_Model="public/no")
    verify(live, "nonsense")
    mine = Call.objects.filter(public_id=api_key.public_id)
    wait_until(lambda: mine.count() == 2)
    good, refused = mine.order_by("-model")
    assert (good.endpoint, good.model, good.status) == (VERIFY_PATH, model.name, 200)
    assert (good.user_agent, good.address) == ("a-proxy", "127.0.0.1")
    assert (good.prompt_tokens, good.completion_tokens, good.is_estimated) == (0, 0, False)
    # A model name made up by the caller is not stored.
    assert (refused.endpoint, refused.model, refused.status) == (VERIFY_PATH, "", 403)
    assert api_key.secrets.get().last_used_at is not None

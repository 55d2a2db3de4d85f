"""What is relayed in each direction: allowed headers, our path, our credential, the body."""

import json
from collections.abc import Callable
from typing import Any
from uuid import RFC_4122, UUID

import pytest

import keyportal
from keyportal.catalog.credentials import encrypt
from keyportal.catalog.models import ServedModel, Upstream
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.server import CHAT, Server, head

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
JSON_ENDPOINTS = [
    "/chat/completions", "/completions", "/embeddings", "/responses", "/messages",
    "/messages/count_tokens", "/moderations", "/rerank", "/images/generations", "/audio/speech",
]  # fmt: skip

TRICKS = [
    "Cookie: session=callers",
    "Proxy-Authorization: Basic Y2FsbGVycw==",
    "X-Forwarded-For: 192.0.2.1",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Proto: https",
    "Forwarded: for=192.0.2.1",
    "X-Real-IP: 192.0.2.1",
    "X-Original-URL: /v1/admin",
    "OpenAI-Organization: callers",
    "User-Agent: callers/1.0",
    "Referer: https://callers.example/",
    "Origin: https://callers.example",
    "Accept-Encoding: gzip, br",
    "Connection: keep-alive, Authorization, Accept",
    "Keep-Alive: timeout=1000",
    "TE: trailers",
    "Upgrade: h2c",
    "X-Request-Id: of the callers own",
]
CROSSING = {
    "Accept": "text/x-callers",
    "OpenAI-Beta": "assistants=v2",
    "Anthropic-Version": "2023-06-01",
    "Anthropic-Beta": "a,b",
    "Traceparent": "00-1-2-03",
    "Tracestate": "a=b",
}


def test_only_listed_headers_reach_the_upstream(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    name = serve_model("echo")
    server = Upstream.objects.get(base_url=fake.url)
    server.credential = "the-operators-own"
    server.save()
    _, key = issue(alice)
    body = json.dumps({"model": name}).encode()
    crossing = [f"{name}: {value}" for name, value in CROSSING.items()]
    with live.connect() as connection:
        connection.send(head(f"POST {CHAT}", key, len(body), *TRICKS, *crossing), body)
        reply = connection.reply()
    assert reply.status == 200
    seen = {name.lower(): value for name, value in fake.received[0].headers.items()}
    own = {"host", "authorization", "content-type", "content-length", "accept-encoding"}
    own |= {"x-request-id", "x-client-request-id", "user-agent"}
    assert set(seen) == own | {name.lower() for name in CROSSING}
    assert seen["x-client-request-id"] == reply.headers["x-request-id"]
    assert {name: seen[name.lower()] for name in CROSSING} == CROSSING
    assert seen["authorization"] == "Bearer the-operators-own"
    assert seen["accept-encoding"] == "identity"
    assert seen["user-agent"] == f"keyportal/{keyportal.__version__}"
    assert seen["host"] in fake.url
    assert "callers" not in str({n: v for n, v in seen.items() if n != "accept"})
    assert key not in str(seen)
    assert "the-operators-own" not in str(reply.headers)


def test_without_a_credential_none_is_sent(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    name = serve_model("echo")
    _, key = issue(alice)
    assert live.chat(key, name).status == 200
    assert "Authorization" not in fake.received[0].headers


def test_only_listed_headers_come_back(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    _, key = issue(alice)
    refused = live.chat(key, serve_model("status:418"))
    assert refused.headers["retry-after"] == "7"
    answer = live.chat(key, serve_model("cookie"))
    for reply in (refused, answer):
        allowed = {"content-type", "content-length", "x-request-id", "openai-processing-ms"}
        allowed |= {"date", "vary", "x-content-type-options"}  # `Vary: Origin` is ours.
        assert set(reply.headers) - {"retry-after"} == allowed
        assert b"secret" not in str(reply.headers).encode()


@pytest.mark.parametrize("endpoint", ["/messages", "/messages/count_tokens"])
def test_anthropic_endpoints_get_our_credential_in_both_headers(
    live: Server,
    alice: User,
    issue: Issue,
    serve_model: Serve,
    fake: FakeUpstream,
    endpoint: str,
) -> None:
    """vLLM, Ollama and llama.cpp read Authorization; Anthropic's own servers x-api-key."""
    name = serve_model("echo")
    server = Upstream.objects.get(base_url=fake.url)
    _, key = issue(alice)
    for credential in ("the-operators-own", ""):
        server.credential = credential
        server.save()
        sent = {"X-Api-Key": key, "Content-Type": "application/json"}
        body = json.dumps({"model": name}).encode()
        reply = live.request("POST", f"/v1{endpoint}", headers=sent, body=body)
        assert reply.status == 200
        seen = {name.lower(): value for name, value in fake.received[-1].headers.items()}
        expected = (f"Bearer {credential}", credential) if credential else (None, None)
        assert (seen.get("authorization"), seen.get("x-api-key")) == expected
        assert key not in str(seen)


def test_other_endpoints_get_the_credential_in_one_header(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    name = serve_model("echo")
    server = Upstream.objects.get(base_url=fake.url)
    server.credential = "the-operators-own"
    server.save()
    sent = {"X-Api-Key": issue(alice)[1], "Content-Type": "application/json"}
    assert live.request("POST", CHAT, headers=sent, body={"model": name}).status == 200
    assert "X-Api-Key" not in fake.received[0].headers


def test_request_id_of_the_caller_is_sent_with_a_new_id_for_each_attempt(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    """llama-cpp-python's server answers 400 to another id; vLLM confuses calls of the same id."""
    name = serve_model("echo")
    headers = {"X-Request-Id": "trace-0af76519", "Content-Type": "application/json"}
    _, key = issue(alice)
    for _ in range(2):
        reply = live.request("POST", CHAT, key=key, body={"model": name}, headers=headers)
        assert reply.headers["x-request-id"] == "trace-0af76519"
    seen = [received.headers for received in fake.received]
    assert [found["X-Client-Request-Id"] for found in seen] == ["trace-0af76519"] * 2
    first, second = (UUID(found["X-Request-Id"]) for found in seen)
    assert first != second
    assert (first.version, first.variant) == (4, RFC_4122)
    assert str(first) == seen[0]["X-Request-Id"]


def test_azure_gets_its_query_and_its_header(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    name = serve_model(
        "echo",
        base_url=f"{fake.url}/openai/deployments/small?api-version=2024-10-21",
        credential_header="api-key",
        encrypted_credential=encrypt("the-operators-own"),
    )
    assert live.chat(issue(alice)[1], name).status == 200
    received = fake.received[0]
    assert received.path == "/v1/openai/deployments/small/chat/completions"
    assert received.query == "api-version=2024-10-21"
    assert received.headers["api-key"] == "the-operators-own"
    assert "Authorization" not in received.headers


@pytest.mark.parametrize("endpoint", [CHAT, "/v1/messages"])
def test_configured_headers_are_sent_and_replace_those_of_the_caller(
    live: Server,
    alice: User,
    issue: Issue,
    serve_model: Serve,
    fake: FakeUpstream,
    endpoint: str,
) -> None:
    headers = "X-Org: the-operators-own\n\nAnthropic-Beta: ours"
    name = serve_model(
        "echo",
        credential_header="x-api-key",
        encrypted_credential=encrypt("word"),
        encrypted_headers=encrypt(headers),
    )
    sent = {"Content-Type": "application/json", "Anthropic-Beta": "theirs", "X-Org": "theirs"}
    sent |= {"Anthropic-Version": "2023-06-01"}
    reply = live.request("POST", endpoint, key=issue(alice)[1], headers=sent, body={"model": name})
    assert reply.status == 200
    assert "the-operators-own" not in str(reply.headers)
    seen = fake.received[0].headers
    assert "Authorization" not in seen
    for header, value in {"X-Api-Key": "word", "X-Org": "the-operators-own"}.items():
        assert seen.getall(header) == [value]
    assert seen.getall("Anthropic-Beta") == ["ours"]
    assert seen.getall("Anthropic-Version") == ["2023-06-01"]


def test_cookies_of_an_upstream_are_dropped(
    live: Server, alice: User, bob: User, issue: Issue, serve_model: Serve
) -> None:
    """Attack: a client with a cookie jar would send one caller's cookie with another's call."""
    name = serve_model("cookie")
    _, key = issue(alice)
    _, another = issue(bob, "another")
    for sent in (key, key, another) * 3:  # Several, so that both workers get one.
        assert live.chat(sent, name).json() == {"cookies": {}}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream, status: int
) -> None:
    """Attack: a redirect sends the operator's credential to another server."""
    _, key = issue(alice)
    logged = len(live.log)
    # An operator may have put a credential in the query, so the log has the server's name.
    name = serve_model(f"redirect:{status}", "way", base_url=f"{fake.url}?key=operators")
    reply = live.chat(key, name)
    assert f"fake-way answers {status}, and redirects are not followed" in live.log[logged:]
    assert "key=operators" not in live.log[logged:]
    assert (reply.status, reply.code) == (502, "upstream_failed")
    assert "location" not in reply.headers
    assert [received.path for received in fake.received] == [CHAT]


def sent_upstream(live: Server, fake: FakeUpstream, key: str, body: bytes) -> Any:
    """The body that the upstream gets when a caller sends `body`."""
    headers = {"Content-Type": "application/json"}
    assert live.request("POST", CHAT, key=key, body=body, headers=headers).status == 200
    return fake.received[-1].body


def test_only_the_model_of_the_body_is_changed(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    """Nested bytes stay unchanged: numbers, escapes, spaces and inner duplicates too."""
    name = serve_model("echo")
    _, key = issue(alice)
    nested = b'[ {"a" :1.0000000000000000001, "a":1e5,"\\u0041": "\xc3\xa9\\/"} ,[] ]'
    body = b'{ "x": ' + nested + b', "model": "' + name.encode() + b'", "n" : -0.0 }'
    assert sent_upstream(live, fake, key, body) == (
        b'{"x":' + nested + b',"model":"echo","n":-0.0}'
    )


def test_upstream_gets_the_model_that_was_admitted(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    """Parsers differ on which of two equal names counts, so only one is sent."""
    name = serve_model("echo")
    _, key = issue(alice)
    secret_model = b'"model": "u-0000000000cc/theirs"'
    for other in (secret_model, b'"\\u006dodel": "u-0000000000cc/theirs"'):
        body = b"{" + other + b', "model": "' + name.encode() + b'"}'
        assert sent_upstream(live, fake, key, body) == b'{"model":"echo"}'
        last = b'{"model": "' + name.encode() + b'", ' + other + b"}"
        headers = {"Content-Type": "application/json"}
        reply = live.request("POST", CHAT, key=key, body=last, headers=headers)
        assert (reply.status, reply.code) == (404, "model_not_found")
    assert len(fake.received) == 2


@pytest.mark.parametrize("endpoint", JSON_ENDPOINTS)
def test_path_is_not_taken_from_the_caller(
    live: Server,
    alice: User,
    issue: Issue,
    serve_model: Serve,
    fake: FakeUpstream,
    endpoint: str,
) -> None:
    name = serve_model("echo")
    _, key = issue(alice)
    body = json.dumps({"model": name}).encode()
    for sent in (f"/v1{endpoint}", f"/v1{endpoint}?api-version=1&x=/../..", f"//v1/{endpoint}//",
                 f"/v1{endpoint.replace('o', '%6f')}", endpoint, f"/v1/v1{endpoint}"):  # fmt: skip
        with live.connect() as connection:
            connection.send_request(f"POST {sent}", key, body)
            assert connection.reply().status == 200
        assert fake.received[-1].path == f"/v1{endpoint}"


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions/../models", "/v1/chat/completions/%2e%2e/models",
     "//v1/../embeddings", "/v1/v1/../chat/completions", "/v1/chat/completions;x", "/v1/audio",
     "/v1/messages/batches", "/v1/responses/resp_1", "/v1/responses/x/cancel",
     "/v1/chat%2Fcompletions%2F..%2Fmodels", "/v1/models/../chat/completions"],
)  # fmt: skip
def test_unknown_paths_are_not_relayed(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream, path: str
) -> None:
    name = serve_model("echo")
    _, key = issue(alice)
    with live.connect() as connection:
        connection.send_request(f"POST {path}", key, json.dumps({"model": name}).encode())
        assert connection.read_head().status in {302, 403, 404, 405}
    assert fake.received == []


def test_routes_of_a_model_are_used_by_weight(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    name = serve_model("echo")
    served = ServedModel.objects.get(name=name)
    upstream = Upstream.objects.get(base_url=fake.url)
    served.routes.create(upstream=upstream, upstream_model="text:never", weight=0)
    served.routes.create(upstream=upstream, upstream_model="echo:2", weight=1)
    _, key = issue(alice)
    for _ in range(30):
        assert live.chat(key, name).status == 200
    asked = {json.loads(received.body)["model"] for received in fake.received}
    assert asked == {"echo", "echo:2"}

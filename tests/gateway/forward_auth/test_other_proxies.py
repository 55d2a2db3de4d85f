"""The configurations that we hand out for proxies other than nginx, in the real proxies.

Only their addresses are changed, and they get a certificate.
"""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.conf import settings

from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.fake_upstream import event, scripted
from tests.support.proxies import caddy, envoy, make_certificate, traefik
from tests.support.proxy_clients import (
    CLIENT,
    ProxyClient,
    assert_refusals_match_v1,
    edited_config,
    read_reply,
)
from tests.support.server import CHAT, Server, chat_body, free_port, wait_until

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
OwnServer = Callable[..., Server]
Start = Callable[[str, int], ProxyClient]
OpenDoor = Callable[[int], ProxyClient]
DEPLOY = Path(settings.BASE_DIR) / "deploy"


@contextmanager
def _caddy(keyportal: int, models: int, folder: Path) -> Iterator[ProxyClient]:
    port, (certificate, key) = free_port(), make_certificate(folder)
    site = f"https://127.0.0.1:{port} {{\n\tbind 127.0.0.1\n\ttls {certificate} {key}"
    configuration = edited_config(
        DEPLOY / "Caddyfile",
        ("llm.example.com {", site),
        ("forward_auth 127.0.0.1:8000 {", f"forward_auth 127.0.0.1:{keyportal} {{"),
        ("reverse_proxy 127.0.0.1:8001\n", f"reverse_proxy 127.0.0.1:{models}\n"),
    )
    with caddy(configuration, folder, port):
        yield ProxyClient(port, certificate)


@contextmanager
def _envoy(keyportal: int, models: int, folder: Path) -> Iterator[ProxyClient]:
    port, (certificate, key) = free_port(), make_certificate(folder)
    configuration = edited_config(
        DEPLOY / "envoy.yaml",
        ("address: 0.0.0.0, port_value: 443", f"address: 127.0.0.1, port_value: {port}"),
        ("/etc/envoy/llm.example.com.pem", str(certificate)),
        ("/etc/envoy/llm.example.com.key", str(key)),
        ("port_value: 8000", f"port_value: {keyportal}"),
        ("port_value: 8001", f"port_value: {models}"),
    )
    with envoy(configuration, folder, port):
        yield ProxyClient(port, certificate)


@contextmanager
def _traefik(keyportal: int, models: int, folder: Path) -> Iterator[ProxyClient]:
    port, (certificate, key) = free_port(), make_certificate(folder)
    configuration = edited_config(
        DEPLOY / "traefik-forward-auth.yaml",
        ("Host(`llm.example.com`)", "Host(`127.0.0.1`)"),
        ("http://127.0.0.1:8000/auth/verify", f"http://127.0.0.1:{keyportal}/auth/verify"),
        ("url: http://127.0.0.1:8001", f"url: http://127.0.0.1:{models}"),
        ("/etc/traefik/llm.example.com.pem", str(certificate)),
        ("/etc/traefik/llm.example.com.key", str(key)),
    )
    with traefik(configuration, folder, port):
        yield ProxyClient(port, certificate)


PROXIES = {"caddy": _caddy, "envoy": _envoy, "traefik": _traefik}


@pytest.fixture
def start(fake: FakeUpstream, tmp_path: Path) -> Iterator[Start]:
    """Start one of them, to ask whoever listens on this port: `start("caddy", live.port)`."""
    with ExitStack() as running:

        def start(name: str, port: int) -> ProxyClient:
            folder = tmp_path / name
            folder.mkdir()
            return running.enter_context(PROXIES[name](port, _port(fake.url), folder))

        yield start


@pytest.fixture(params=PROXIES)
def open_door(start: Start, request: pytest.FixtureRequest) -> OpenDoor:
    return lambda port: start(request.param, port)


@pytest.fixture(scope="module", params=PROXIES)
def shared_door(
    server: Server,
    upstream_server: FakeUpstream,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[ProxyClient]:
    """One proxy for all tests of this file that ask the shared server."""
    folder = tmp_path_factory.mktemp(request.param)
    with PROXIES[request.param](server.port, _port(upstream_server.url), folder) as door:
        yield door


@pytest.fixture
def door(live: Server, fake: FakeUpstream, shared_door: ProxyClient) -> ProxyClient:
    return shared_door


def _port(url: str) -> int:
    return urlsplit(url).port or 0


def test_allowed_call_arrives_with_identity_headers_and_without_the_key(
    door: ProxyClient, fake: FakeUpstream, alice: User, team: Team, issue: Issue
) -> None:
    api_key, key = issue(alice)
    forged = {
        f"{before}Keyportal{between}{name}": "u-0000000000cc"
        for before in ("X-", "X_", "x-")
        for between in "-_"
        for name in ("Team", "Key", "Model", "Role")
    }
    # What it names there, a proxy may take for its own affair, and drop.
    forged["Connection"] = "X-Keyportal-Team, X-Keyportal-Key"
    forged["Content-Type"] = "application/json"
    body = json.dumps(chat_body("echo")).encode()
    for shown in ({"Authorization": f"Bearer {key}"}, {"x-api-key": key}, {"api-key": key}):
        assert door.send("POST", CHAT, body, forged | shown).status == 200
        received = fake.received.pop()
        said = [(n.lower(), v) for n, v in received.headers.items() if "keyportal" in n.lower()]
        assert sorted(said) == [
            ("x-keyportal-key", api_key.public_id),
            ("x-keyportal-team", team.slug),
        ]
        assert "Authorization" not in received.headers
        assert {"X-Api-Key", "Api-Key"}.isdisjoint(received.headers)
        assert key not in str(received)
        assert received.body == body


def test_refusals_are_the_same_as_on_v1(
    door: ProxyClient, live: Server, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    assert_refusals_match_v1(door, live, fake, alice, issue)


def test_calls_are_refused_while_keyportal_is_down(open_door: OpenDoor, fake: FakeUpstream) -> None:
    last = b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    answers = [
        b"",
        b"This is not HTTP." + last,
        b"HTTP/1.1 302 Found\r\nLocation: /login" + last,
        b"HTTP/1.1 500 Internal Server Error" + last,
        b"HTTP/1.1 503 Service Unavailable" + last,
    ]
    with scripted(lambda *_: answers[0]) as (url, questions):
        door = open_door(_port(url))
        while answers:
            assert door.chat("some-key").status in {302, 500, 502, 503}
            assert questions.pop()
            answers.pop(0)
    assert door.chat("some-key").status in {500, 502, 503}
    assert fake.received == []


def test_deleted_key_is_refused_from_the_next_request_on(
    door: ProxyClient, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    api_key, key = issue(alice)
    assert {door.chat(key).status for _ in range(10)} == {200}
    api_key.revoke(actor=alice)
    fake.received.clear()
    assert {door.chat(key).status for _ in range(10)} == {401}
    assert fake.received == []


def test_trusted_proxy_sets_client_address_and_scheme(
    start: Start, own_server: OwnServer, alice: User, issue: Issue
) -> None:
    keyportal = own_server(
        KEYPORTAL_URL="https://keys.example.com", KEYPORTAL_TRUSTED_PROXIES="127.0.0.1"
    )
    _, inside = issue(alice, "inside", permissions=Permissions(networks=(f"{CLIENT}/32",)))
    _, elsewhere = issue(alice, "elsewhere", permissions=Permissions(networks=("192.0.2.7/32",)))
    for name in PROXIES:
        door = start(name, keyportal.port)
        claims = {"X_Forwarded_For": "192.0.2.7", "X_Forwarded_Proto": "http"}
        assert door.chat(inside, **claims).status == 200, name
        reply = door.chat(elsewhere, **claims)
        assert (reply.status, reply.code) == (403, "address_not_allowed"), name


def test_endpoint_restriction_holds_for_any_headers_of_the_caller(
    door: ProxyClient, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    _, chat = issue(alice, "chat", permissions=Permissions(endpoints=Endpoints.CHAT))
    _, reader = issue(alice, "reader", permissions=Permissions(endpoints=Endpoints.READ))
    _, embedder = issue(alice, "embedder", permissions=Permissions(endpoints=Endpoints.EMBEDDINGS))
    assert door.chat(chat).status == 200
    assert door.request("POST", f"{CHAT}?a=b", chat, chat_body("echo")).status == 200
    assert door.request("GET", "/v1/models", chat).status == 200
    assert door.request("GET", "/v1/models?a=b", reader).status == 200
    fake.received.clear()
    claims = dict.fromkeys(("X_Forwarded_Uri", "X_Original_URI", "X_Original_URL"), "/v1/models")
    methods = {"X_Forwarded_Method": "GET", "X_Original_Method": "GET"}
    for key, method, path in (
        (chat, "POST", "/v1/embeddings"),
        (chat, "DELETE", CHAT),
        (reader, "POST", CHAT),
        (reader, "GET", CHAT),
        (reader, "POST", "/v1/models/../chat/completions"),
        (reader, "POST", "/v1/models/%2e%2e/chat/completions"),
        (reader, "POST", "/v1/models/%252e%252e/chat/completions"),
        (reader, "POST", "/v1/chat%2fcompletions"),
        (reader, "DELETE", "/v1/models/x"),
        (embedder, "POST", "/v1/embeddingshttp://x%2f..%2f..%2fchat%2fcompletions"),
        (embedder, "POST", "/v1/embeddings%2f..%2fchat%2fcompletions"),
    ):
        for claimed in ({}, claims | methods):
            reply = door.request(method, path, key, chat_body("echo"), **claimed)
            assert (reply.status, reply.code) == (403, "endpoint_not_allowed"), path
    assert fake.received == []


def test_only_v1_reaches_the_models(
    door: ProxyClient, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    _, key = issue(alice)
    for path in ("/", "/metrics", "/v1/../metrics", "/v1/%2e%2e/metrics", "/auth/verify", "/v1x"):
        assert door.request("GET", path, key).status == 404
    assert fake.received == []


def test_bodies_arrive_complete_on_one_connection(
    door: ProxyClient, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    _, key = issue(alice)
    large = json.dumps(chat_body("text:{}", padding="x" * 3_000_000)).encode()
    small = json.dumps(chat_body("text:{}")).encode()
    pieces = [large[at : at + 70_000] for at in range(0, len(large), 70_000)]
    with closing(door.connect()) as client:
        client.connect()
        connection = client.sock
        for shown, data, headers in (
            (key, large, {}),
            (key, pieces, {"Transfer-Encoding": "chunked"}),
            ("nonsense", small, {}),
            (key, large, {"Expect": "100-continue"}),
            (key, [small[:9], small[9:]], {"Transfer-Encoding": "chunked"}),
            (key, small, {}),
        ) * 2:
            sent = headers | {
                "Authorization": f"Bearer {shown}",
                "Content-Type": "application/json",
            }
            client.request("POST", CHAT, data, sent, encode_chunked="Transfer-Encoding" in sent)
            assert read_reply(client.getresponse()).status == (200 if shown == key else 401)
            assert client.sock is connection
    assert [one.body for one in fake.received] == [large, large, large, small, small] * 2


def test_verification_has_no_body_and_reuses_its_connection(
    open_door: OpenDoor, fake: FakeUpstream
) -> None:
    """It closes a connection on which a body is announced."""
    connections = set()

    def verdict(connection: int, _question: int) -> bytes:
        connections.add(connection)
        return b"HTTP/1.1 200 OK\r\nX-Keyportal-Team: t\r\nContent-Length: 0\r\n\r\n"

    headers = {"Content-Type": "application/json", "User-Agent": "some-program/1.0"}
    with scripted(verdict) as (url, questions), closing(open_door(_port(url)).connect()) as client:
        for data in (json.dumps(chat_body("echo")).encode(), [b'{"model":', b'"echo"}'], None):
            client.request("GET" if data is None else "POST", CHAT, data, headers)
            assert read_reply(client.getresponse()).status == 200
    assert len(questions) == len(fake.received) == 3
    assert connections == {1}
    for question in map(bytes.lower, questions):
        assert b"transfer-encoding" not in question
        assert question.count(b"content-length") == question.count(b"content-length: 0\r\n")
        # The page of a key tells which programs show it.
        assert b"user-agent: some-program/1.0\r\n" in question


def _get(client: http.client.HTTPConnection, key: str, behaviour: str) -> None:
    """Without a body: Caddy 2.6 cuts an answer that begins while it looks for the body's end."""
    path = f"/v1/models?model={behaviour}"
    client.request("GET", path, headers={"Authorization": f"Bearer {key}"})


def test_response_is_streamed_to_the_caller(
    door: ProxyClient, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    _, key = issue(alice)
    with closing(door.connect()) as client:
        _get(client, key, "wait")
        answer = client.getresponse()
        assert answer.readline() + answer.readline() == event(0)
        fake.released.set()
        assert answer.read() == event(1) + b"data: [DONE]\n\n"
    with closing(door.connect()) as client:
        _get(client, key, "trickle")
        assert client.getresponse().read(3) == b"   "  # No events, and no end.
    wait_until(lambda: fake.disconnected_at)  # Or it would be told to the next test.


@pytest.mark.parametrize("behaviour", ["stall", "trickle"])
def test_disconnect_ends_the_call(
    door: ProxyClient, fake: FakeUpstream, alice: User, issue: Issue, behaviour: str
) -> None:
    _, key = issue(alice)
    with closing(door.connect()) as client:
        _get(client, key, behaviour)
        wait_until(lambda: fake.received)
        assert fake.disconnected_at == []
    wait_until(lambda: fake.disconnected_at)


@pytest.mark.parametrize("shared_door", ["envoy"], indirect=True)
def test_envoy_adds_rate_limit_headers_to_responses_of_models(
    door: ProxyClient, alice: User, issue: Issue
) -> None:
    _, key = issue(alice, limits=Limits(requests_per_day=10))
    reply = door.chat(key)
    assert reply.status == 200
    assert reply.headers["x-ratelimit-limit-requests"] == "10"
    assert reply.headers["x-ratelimit-remaining-requests"] == "9"


def test_errors_of_the_models_are_unchanged(door: ProxyClient, alice: User, issue: Issue) -> None:
    _, key = issue(alice)
    for status in (401, 403, 429, 500):
        reply = door.chat(key, f"status:{status}")
        assert (reply.status, reply.code) == (status, "its_own")
        assert b"keyportal" not in reply.body.lower()

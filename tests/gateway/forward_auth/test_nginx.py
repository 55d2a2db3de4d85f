"""The nginx configuration that we hand out, in a real nginx.

Only its addresses are changed, and it gets a certificate.
"""

import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings

from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.lazy import LazyModule
from tests.support.nginx import nginx
from tests.support.proxies import make_certificate
from tests.support.proxy_clients import (
    CLIENT,
    ProxyClient,
    assert_refusals_match_v1,
    assert_same_refusal,
    edited_config,
)
from tests.support.server import CHAT, Server, chat_body, free_port

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
OwnServer = Callable[..., Server]
OpenDoor = Callable[..., ProxyClient]
NAMES = ("Team", "Key", "Model", "Refusal")  # All headers of this form that have a meaning.
CONFIGURATION = Path(settings.BASE_DIR) / "deploy" / "nginx-forward-auth.conf"


@pytest.fixture
def open_door(fake: FakeUpstream, tmp_path: Path) -> Iterator[OpenDoor]:
    """Start an nginx that asks this server: `open_door(live)`; over plain HTTP where told so."""
    with ExitStack() as running:

        def open_door(server: Server, *, is_plain: bool = False) -> ProxyClient:
            folder = tmp_path / ("plain" if is_plain else "https")
            folder.mkdir()
            return running.enter_context(_door(server, fake, folder, is_plain))

        yield open_door


@pytest.fixture
def door(open_door: OpenDoor, live: Server) -> ProxyClient:
    return open_door(live)


@contextmanager
def _door(
    keyportal: Server, fake: FakeUpstream, folder: Path, is_plain: bool = False
) -> Iterator[ProxyClient]:
    port, (certificate, key) = free_port(), make_certificate(folder)
    configuration = edited_config(
        CONFIGURATION,
        ("listen 443 ssl;", f"listen 127.0.0.1:{port}{'' if is_plain else ' ssl'};"),
        (
            "# ssl_certificate and ssl_certificate_key go here.",
            f"ssl_certificate {certificate}; ssl_certificate_key {key};",
        ),
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{keyportal.port};"),
        ("server 127.0.0.1:8001;", f"server {fake.url.split('/')[2]};"),
    )
    with nginx(configuration, folder):
        yield ProxyClient(port, None if is_plain else certificate)


def test_allowed_call_reaches_the_gateway_with_its_team_and_without_the_key(
    door: ProxyClient, fake: FakeUpstream, alice: User, team: Team, issue: Issue
) -> None:
    api_key, key = issue(alice, limits=Limits(requests_per_day=10))
    forged = dict.fromkeys((f"X_Keyportal_{name}" for name in NAMES), "u-0000000000cc")
    reply = door.chat(key, **forged)
    assert reply.status == 200
    assert reply.headers["x-ratelimit-limit-requests"] == "10"
    assert reply.headers["x-ratelimit-remaining-requests"] == "9"
    seen: dict[str, Any] = reply.json()
    assert json.loads(seen["body"]) == chat_body("echo")
    headers = {name.lower(): value for name, value in seen["headers"].items()}
    assert headers["x-keyportal-team"] == team.slug
    assert headers["x-keyportal-key"] == api_key.public_id
    assert key not in reply.body.decode()
    (received,) = fake.received
    said = [(n.lower(), v) for n, v in received.headers.items() if "keyportal" in n.lower()]
    assert sorted(said) == [
        ("x-keyportal-key", api_key.public_id),
        ("x-keyportal-team", team.slug),
    ]


@pytest.mark.parametrize("header", ["X_Api_Key", "Api_Key"])
def test_key_in_another_header_is_removed_by_nginx(
    door: ProxyClient, fake: FakeUpstream, alice: User, issue: Issue, header: str
) -> None:
    _, key = issue(alice)
    assert door.chat(None, **{header: key}).status == 200
    assert key not in str(fake.received)


def test_refusals_are_the_same_as_on_v1(
    door: ProxyClient, live: Server, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    assert_refusals_match_v1(door, live, fake, alice, issue)


def test_official_client_raises_the_same_errors_as_on_v1(
    door: ProxyClient, alice: User, issue: Issue
) -> None:
    _, key = issue(alice, limits=Limits(requests_per_day=1))

    def chat(key: str) -> object:
        url = f"https://127.0.0.1:{door.port}/v1"
        trusting = openai.DefaultHttpxClient(
            verify=ssl.create_default_context(cafile=door.certificate)
        )
        with openai.OpenAI(
            base_url=url, api_key=key, max_retries=0, http_client=trusting
        ) as client:
            # So large that it is still on its way when the refusal comes.
            prompt = "x" * 5_000_000
            return client.with_raw_response.chat.completions.create(
                model="echo", messages=[{"role": "user", "content": prompt}]
            )

    with pytest.raises(openai.AuthenticationError):
        chat("nonsense")
    chat(key)
    with pytest.raises(openai.RateLimitError) as caught:
        chat(key)
    assert caught.value.code == "insufficient_quota"


def test_read_only_key_cannot_call_models(
    door: ProxyClient, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    _, reader = issue(alice, permissions=Permissions(endpoints=Endpoints.READ))
    claims = dict.fromkeys(("X_Forwarded_Uri", "X_Original_URI", "X_Original_URL"), "/v1/models")
    methods = {"X_Forwarded_Method": "GET", "X_Original_Method": "GET"}
    assert door.request("GET", "/v1/models", reader).status == 200
    fake.received.clear()
    for path in (
        CHAT,
        "/v1/models/../chat/completions",
        "/v1/models/%2e%2e/chat/completions",
        "/v1/models/%252e%252e/chat/completions",
        "/v1//models",
        "/v1/chat%2fcompletions",
        "/v1/models;/../chat/completions",
    ):
        for method in ("GET", "POST"):
            reply = door.request(method, path, reader, chat_body("echo"), **claims, **methods)
            assert (reply.status, reply.code) == (403, "endpoint_not_allowed"), path
    assert door.request("DELETE", "/v1/models/x", reader).status == 403
    assert fake.received == []


def test_embeddings_key_cannot_reach_another_endpoint(
    door: ProxyClient, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    """Attack: nginx passes the path on as it was sent, and the gateway decodes it."""
    _, key = issue(alice, permissions=Permissions(endpoints=Endpoints.EMBEDDINGS))
    for path in (
        "/v1/embeddingshttp://x%2f..%2f..%2fchat%2fcompletions",
        "/v1/embeddingshttp://x/../../chat/completions",
        "/v1/embeddings%2f..%2fchat%2fcompletions",
        "/v1/embeddings/..%2fchat/completions",
        "/v1/embeddings%5c..%5cchat",
        "/v1/./embeddings",
    ):
        reply = door.request("POST", path, key, chat_body("echo"))
        assert (reply.status, reply.code) == (403, "endpoint_not_allowed"), path
    assert fake.received == []
    door.request("POST", "/v1/embeddings", key, chat_body("echo"))
    assert [received.path for received in fake.received] == ["/v1/embeddings"]


def test_trusted_nginx_sets_client_address_and_scheme_not_the_caller(
    open_door: OpenDoor, own_server: OwnServer, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    """nginx says how its caller came, and makes 500 of the 426 that its configuration restores."""
    keyportal = own_server(
        KEYPORTAL_URL="https://keys.example.com", KEYPORTAL_TRUSTED_PROXIES="127.0.0.1"
    )
    _, key = issue(alice)
    https, plain = open_door(keyportal), open_door(keyportal, is_plain=True)
    for claim in ("", "http", "https"):
        assert https.chat(key, X_Forwarded_Proto=claim).status == 200
    _, inside = issue(alice, "inside", permissions=Permissions(networks=(f"{CLIENT}/32",)))
    _, elsewhere = issue(alice, "elsewhere", permissions=Permissions(networks=("192.0.2.7/32",)))
    assert https.chat(inside, X_Forwarded_For="192.0.2.7").status == 200
    reply = https.chat(elsewhere, X_Forwarded_For="192.0.2.7")
    assert (reply.status, reply.code) == (403, "address_not_allowed")
    fake.received.clear()
    for shown in (key, "nonsense", None):
        for claim in ("", "http", "https"):
            reply = plain.chat(shown, X_Forwarded_Proto=claim)
            assert (reply.status, reply.code) == (426, "https_required")
            assert_same_refusal(reply, keyportal.chat(shown, "echo"))
    assert fake.received == []


def test_scheme_header_of_an_untrusted_nginx_is_ignored(
    open_door: OpenDoor, own_server: OwnServer, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    """Its operator is told so at once, and nobody passes."""
    door = open_door(own_server(KEYPORTAL_URL="https://keys.example.com"))
    _, key = issue(alice)
    reply = door.chat(key, X_Forwarded_Proto="https")
    assert (reply.status, reply.code) == (426, "https_required")
    assert fake.received == []


def test_deleted_key_is_refused_from_the_next_request_on(
    door: ProxyClient, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    api_key, key = issue(alice)
    assert {door.chat(key).status for _ in range(20)} == {200}
    api_key.revoke(actor=alice)
    fake.received.clear()
    assert {door.chat(key).status for _ in range(20)} == {401}
    assert fake.received == []


def test_calls_are_refused_while_keyportal_is_down(
    open_door: OpenDoor,
    own_server: OwnServer,
    fake: FakeUpstream,
    alice: User,
    issue: Issue,
) -> None:
    keyportal = own_server()
    door = open_door(keyportal)
    _, key = issue(alice)
    assert door.chat(key).status == 200
    keyportal.stop()
    fake.received.clear()
    reply = door.chat(key)
    assert (reply.status, reply.code) == (503, "keys_unchecked")
    assert fake.received == []


def test_errors_of_the_gateway_are_unchanged(door: ProxyClient, alice: User, issue: Issue) -> None:
    _, key = issue(alice)
    for status in (401, 403, 429, 500):
        reply = door.chat(key, f"status:{status}")
        assert reply.status == status
        assert "x-keyportal-refusal" not in reply.headers
        assert b"keyportal" not in reply.body.lower()


def test_verification_path_is_not_reachable_through_nginx(door: ProxyClient) -> None:
    for path in ("/_keyportal", "/auth/verify"):
        assert door.request("GET", path, None).status == 404

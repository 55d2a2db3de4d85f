"""Plain HTTP is refused if the public URL is https; trusted proxies may forward it."""

from collections.abc import Callable

import pytest

from keyportal.audit.models import AuditEvent
from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.models import User
from tests.support.server import CHAT, Server, wait_until

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
OwnServer = Callable[..., Server]
PUBLIC = {"KEYPORTAL_URL": "https://keys.example.com"}
HOST = {"Host": "keys.example.com"}
FROM_AFAR = {"X-Forwarded-For": "192.0.2.66, 198.51.100.7", "X-Forwarded-Proto": "https"}


def test_a_key_over_plain_http_is_refused_not_redirected(
    own_server: OwnServer, alice: User, issue: Issue, model: ServedModel
) -> None:
    """A client that follows a redirect would go on sending its key in clear text."""
    server = own_server(**PUBLIC)
    _, key = issue(alice)
    # No proxy is trusted, not even on loopback, so the headers are ignored.
    for headers in ({}, FROM_AFAR, HOST):
        for path in ("/v1/models", CHAT, "/v1/nothing", "/v1"):
            reply = server.request("GET", path, key=key, headers=headers)
            assert (reply.status, reply.code) == (426, "https_required")
            assert reply.headers["upgrade"] == "TLS/1.2, HTTP/1.1"
            assert reply.headers["x-request-id"].startswith("req_")
            assert "location" not in reply.headers
        assert server.request("GET", "/auth/verify", key=key, headers=headers).status == 426
    assert Secret.objects.get().last_used_at is None
    page = server.request("GET", "/accounts/login/", headers=HOST)
    assert page.status == 301
    assert page.headers["location"] == "https://keys.example.com/accounts/login/"


def test_a_trusted_proxy_speaks_for_its_client(
    own_server: OwnServer, alice: User, issue: Issue, model: ServedModel
) -> None:
    server = own_server(KEYPORTAL_TRUSTED_PROXIES="127.0.0.1/32", **PUBLIC)
    _, key = issue(alice)
    assert server.request("GET", "/v1/models", key=key).status == 426
    for proto in ("http", "https, http"):
        headers = {"X-Forwarded-Proto": proto}
        assert server.request("GET", "/v1/models", key=key, headers=headers).status == 426
    reply = server.request("GET", "/v1/models", key=key, headers=FROM_AFAR)
    assert reply.status == 200
    # The nearest address that is not trusted. Anyone can write those further left.
    wait_until(lambda: Secret.objects.get().last_used_address == "198.51.100.7")
    page = server.request("GET", "/accounts/login/", headers=FROM_AFAR | HOST)
    assert page.status == 200
    assert "max-age=" in page.headers["strict-transport-security"]
    assert "Secure" in page.headers["set-cookie"]
    assert audited_address(server, HOST) == "198.51.100.7"


def test_without_trusted_proxies_the_peer_is_who_calls(
    live: Server, alice: User, issue: Issue
) -> None:
    api_key, key = issue(alice)
    headers = FROM_AFAR | {"Forwarded": "for=192.0.2.66", "X-Real-IP": "192.0.2.66"}
    assert live.request("GET", "/v1/models", key=key, headers=headers).status == 200
    wait_until(lambda: api_key.secrets.get().last_used_address)
    assert api_key.secrets.get().last_used_address == "127.0.0.1"
    page = live.request("GET", "/accounts/login/", headers=FROM_AFAR)
    assert page.status == 200
    assert "strict-transport-security" not in page.headers
    assert "Secure" not in page.headers["set-cookie"]
    assert audited_address(live, {}) == "127.0.0.1"


def audited_address(server: Server, host: dict[str, str]) -> str | None:
    """Fail to sign in, from afar. Returns the address in the audit."""
    page = server.request("GET", "/accounts/login/", headers=FROM_AFAR | host)
    cookie = page.headers["set-cookie"].partition(";")[0]
    form = f"login=nobody&password=wrong&csrfmiddlewaretoken={cookie.partition('=')[2]}"
    sent = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Cookie": cookie,
        "Referer": "https://keys.example.com/accounts/login/",
    }
    headers = FROM_AFAR | host | sent
    reply = server.request("POST", "/accounts/login/", body=form.encode(), headers=headers)
    assert reply.status == 200
    return AuditEvent.objects.latest("pk").address

"""A client of a proxy that uses Keyportal's forward authentication, and checks of its answers."""

import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.limits import Limits
from keyportal.teams.models import User
from tests.support.clock import ensure_time_left
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.server import CHAT, Reply, Server, chat_body

Issue = Callable[..., tuple[ApiKey, str]]
CLIENT = "127.0.0.2"


class ProxyClient:
    """Connects from an address that is not a trusted proxy."""

    def __init__(self, port: int, certificate: Path | None = None) -> None:
        """With a certificate, connect by https and trust only this certificate."""
        self.port = port
        self.certificate = certificate

    def connect(self) -> http.client.HTTPConnection:
        connection_class: Callable[..., http.client.HTTPConnection] = http.client.HTTPConnection
        if self.certificate is not None:
            connection_class = partial(
                http.client.HTTPSConnection,
                context=ssl.create_default_context(cafile=self.certificate),
            )
        return connection_class("127.0.0.1", self.port, timeout=60, source_address=(CLIENT, 0))

    def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        with closing(self.connect()) as client:
            client.request(method, path, body, headers)
            return read_reply(client.getresponse())

    def request(
        self, method: str, path: str, key: str | None, body: object = None, **headers: str
    ) -> Reply:
        sent_headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            sent_headers["Authorization"] = f"Bearer {key}"
        if body is not None:
            sent_headers["Content-Type"] = "application/json"
        return self.send(
            method, path, None if body is None else json.dumps(body).encode(), sent_headers
        )

    def chat(self, key: str | None, behaviour: str = "echo", **headers: str) -> Reply:
        return self.request("POST", CHAT, key, chat_body(behaviour), **headers)


def read_reply(answer: http.client.HTTPResponse) -> Reply:
    pairs = [(name.lower(), value) for name, value in answer.getheaders()]
    # Caddy adds its own `Server` header to that of the server behind it.
    names = [name for name, _ in pairs if name != "server"]
    assert len(set(names)) == len(names), "a header is there twice"
    return Reply(answer.status, dict(pairs), answer.read())


def edited_config(file: Path, *changes: tuple[str, str]) -> str:
    """The text of `file` with these replacements; each old text must be there exactly once."""
    text = file.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def assert_same_refusal(reply: Reply, direct: Reply) -> None:
    """A client of the proxy must get the same refusal as a client of `/v1/`."""
    assert reply.status == direct.status
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers.get("www-authenticate") == direct.headers.get("www-authenticate")
    assert reply.headers.get("x-should-retry") == direct.headers.get("x-should-retry")
    assert ("retry-after" in reply.headers) == ("retry-after" in direct.headers)
    assert reply.json().keys() == direct.json().keys()


def assert_refusals_match_v1(
    proxy: ProxyClient, live: Server, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    """Refused clients of the proxy get what `/v1/` answers, and no request reaches the model."""
    _, used_up = issue(alice, "minute", limits=Limits(requests_per_minute=1))
    _, quota = issue(alice, "day", limits=Limits(requests_per_day=1))
    _, reader = issue(alice, "reader", permissions=Permissions(endpoints=Endpoints.READ))
    ensure_time_left(20)
    for key in (used_up, quota):
        assert proxy.chat(key).status == 200
    fake.received.clear()
    expected: tuple[tuple[str | None, int, str], ...] = (
        (None, 401, "invalid_api_key"),
        ("nonsense", 401, "invalid_api_key"),
        (reader, 403, "endpoint_not_allowed"),
        (used_up, 429, "rate_limit_exceeded"),
        (quota, 429, "insufficient_quota"),
    )
    for key_string, status, code in expected:
        reply = proxy.chat(key_string)
        assert (reply.status, reply.code) == (status, code)
        assert_same_refusal(reply, live.chat(key_string, "echo"))
    reply = proxy.chat(used_up)
    assert 1 <= int(reply.headers["retry-after"]) <= 60
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    assert fake.received == []

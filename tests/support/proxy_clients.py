"""A proxy that asks Keyportal, as its clients see it, with the configuration that we hand out."""

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
from tests.support.clock import leave_time
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.server import CHAT, Reply, Server, chat_body

Issue = Callable[..., tuple[ApiKey, str]]
CLIENT = "127.0.0.2"


class ProxyClient:
    """The proxy's clients come from an address that nobody trusts."""

    def __init__(self, port: int, certificate: Path | None = None) -> None:
        """It speaks https where it has a certificate; that is its own authority."""
        self.port = port
        self.certificate = certificate

    def connect(self) -> http.client.HTTPConnection:
        open_to: Callable[..., http.client.HTTPConnection] = http.client.HTTPConnection
        if self.certificate is not None:
            open_to = partial(
                http.client.HTTPSConnection,
                context=ssl.create_default_context(cafile=self.certificate),
            )
        return open_to("127.0.0.1", self.port, timeout=30, source_address=(CLIENT, 0))

    def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        with closing(self.connect()) as client:
            client.request(method, path, body, headers)
            return read(client.getresponse())

    def ask(
        self, method: str, path: str, key: str | None, body: object = None, **headers: str
    ) -> Reply:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            sent["Authorization"] = f"Bearer {key}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        return self.send(method, path, None if body is None else json.dumps(body).encode(), sent)

    def chat(self, key: str | None, behaviour: str = "echo", **headers: str) -> Reply:
        return self.ask("POST", CHAT, key, chat_body(behaviour), **headers)


def read(answer: http.client.HTTPResponse) -> Reply:
    pairs = [(name.lower(), value) for name, value in answer.getheaders()]
    # Caddy says who it is, and leaves it to the server behind it to say so too.
    once = [name for name, _ in pairs if name != "server"]
    assert len(set(once)) == len(once), "a header stands twice"
    return Reply(answer.status, dict(pairs), answer.read())


def changed(file: Path, *changes: tuple[str, str]) -> str:
    """What stands in `file`, but for what its reader is told to change: each of it stands once."""
    text = file.read_text()
    for ours, theirs in changes:
        assert text.count(ours) == 1, ours
        text = text.replace(ours, theirs)
    return text


def is_refused_as_on_v1(reply: Reply, direct: Reply) -> None:
    """A caller of the proxy is told what Keyportal's own callers are told."""
    assert reply.status == direct.status
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers.get("www-authenticate") == direct.headers.get("www-authenticate")
    assert reply.headers.get("x-should-retry") == direct.headers.get("x-should-retry")
    assert ("retry-after" in reply.headers) == ("retry-after" in direct.headers)
    assert reply.json().keys() == direct.json().keys()


def require_refusals_of_v1(
    door: ProxyClient, live: Server, fake: FakeUpstream, alice: User, issue: Issue
) -> None:
    """Whoever is refused meets the status, headers and words of `/v1/`; the model meets nobody."""
    _, used_up = issue(alice, "minute", limits=Limits(requests_per_minute=1))
    _, quota = issue(alice, "day", limits=Limits(requests_per_day=1))
    _, reader = issue(alice, "reader", permissions=Permissions(endpoints=Endpoints.READ))
    leave_time(20)
    for good in (used_up, quota):
        assert door.chat(good).status == 200
    fake.received.clear()
    expected: tuple[tuple[str | None, int, str], ...] = (
        (None, 401, "invalid_api_key"),
        ("nonsense", 401, "invalid_api_key"),
        (reader, 403, "endpoint_not_allowed"),
        (used_up, 429, "rate_limit_exceeded"),
        (quota, 429, "insufficient_quota"),
    )
    for shown, status, code in expected:
        reply = door.chat(shown)
        assert (reply.status, reply.code) == (status, code)
        is_refused_as_on_v1(reply, live.chat(shown, "echo"))
    reply = door.chat(used_up)
    assert 1 <= int(reply.headers["retry-after"]) <= 60
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    assert fake.received == []

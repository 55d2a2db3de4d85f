"""Whatever comes over a real connection, each answer is one that the OpenAPI document tells of.

What a client library would send, `test_openapi` asks without a server. Here come half tokens,
bodies in the wrong clothes, too large ones, and those that are announced and never sent.
"""

import itertools
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import hypothesis
import msgspec
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy, binary, builds, sampled_from, tuples

from keyportal.api.framework.openapi import build_document
from keyportal.api.framework.parsing import MAX_BODY_BYTES
from keyportal.api.framework.problems import CONTENT_TYPE, ProblemDetails
from keyportal.api.scopes import Scope
from keyportal.api.urls import OPERATIONS
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.support.api_client import NewApiClient
from tests.support.server import BareServer, Connection, Reply, Server, head

pytestmark = pytest.mark.gateway
OwnServer = Callable[..., Server]
Issue = Callable[..., tuple[ApiKey, str]]
PATHS = build_document(OPERATIONS)["paths"]
EXAMPLES = 300
KEYS = "/api/v1/keys"


class ShortTimeoutServer(BareServer):
    module = [
        "gunicorn",
        "-c",
        "python:tests.support.gunicorn_short_timeout",
        "keyportal.asgi:application",
    ]


@pytest.fixture
def sound(live: Server) -> Iterator[Server]:
    """The shared server, which fails over nothing meanwhile."""
    logged = len(live.log)
    yield live
    assert "Traceback" not in live.log[logged:]
    assert "ERROR" not in live.log[logged:]


def responses(method: str, path: str) -> dict[str, Any]:
    """What the document tells of this, by status; elsewhere nothing is, however it is asked."""
    page = PATHS.get(f"/api/v1/{path}")
    if page and (found := page.get(method.lower().replace("head", "get"))):
        return dict(found["responses"])
    anywhere = PATHS["/api/v1/keys/{id}"]["patch"]["responses"]
    return {status: anywhere[status] for status in ("405" if page else "404", "408", "413")}


def require_told(reply: Reply, method: str, path: str) -> None:
    told = responses(method, path).get(str(reply.status))
    assert told, reply
    assert reply.status < 500, reply
    assert reply.headers["cache-control"] == "no-store"
    assert {name.lower() for name in told["headers"]} <= {*reply.headers}
    kind = reply.headers.get("content-type")
    assert kind in told.get("content", [None]), reply
    if kind == CONTENT_TYPE and method != "HEAD":
        problem = msgspec.json.decode(reply.body, type=ProblemDetails)
        assert (problem.status, problem.request_id) == (reply.status, reply.headers["x-request-id"])
        assert problem.type.startswith("urn:keyportal:problem:")
        assert problem.title
        assert problem.detail


class Sent(NamedTuple):
    operation: tuple[str, str]
    query: str
    shown: str
    kind: str | None
    body: str | bytes
    """Or the name of one."""
    framing: str

    def on(self, connection: Connection, there: dict[str, str], shown: list[str]) -> None:
        method, path = self.operation
        lines = [f"Authorization: {one}" for one in shown]
        if self.kind is not None:
            lines.append(f"Content-Type: {self.kind}")
        body = BODIES[self.body] if isinstance(self.body, str) else self.body
        if self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        elif body:
            lines.append(f"Content-Length: {len(body)}")
        line = f"{method} /api/v1/{path.format(**there)}{self.query}"
        half = len(body) // 2 if self.framing == "in halves" else 0
        for part in (head(line, None, None, *lines), body[:half], body[half:]):
            connection.send(part)


def authorizations(token: str, key: str) -> dict[str, list[str]]:
    return {
        "good": [f"Bearer {token}"],
        "none": [],
        "empty": ["Bearer "],
        "half": [f"Bearer {token[: len(token) // 2]}"],
        "another end": [f"Bearer {token[:-1]}{'a' if token[-1] == 'b' else 'b'}"],
        "longer": [f"Bearer {token}{'x' * 8_000}"],
        "two": [f"Bearer {token}", f"Bearer {token}"],
        "of models": [f"Bearer {key}"],
        "another scheme": [f"Basic {token}"],
        "no ASCII": [f"Bearer {token[:-1]}é\x80"],
        "bare": [token],
    }


# Those that read a body more often.
THERE = sampled_from(
    [(one.method, one.path) for one in OPERATIONS for _ in range(4 if one.body else 1)]
)
# The body of a HEAD ends the connection.
METHODS = sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"])
ELSEWHERE = sampled_from(
    ["", "/", "keys/", "keys//x", "keys/%00", "keys/%ff", "../../admin/", "keys/{id}/", "self;x"]
)
BODIES = {
    "empty": b"",
    "no fields": b"{}",
    "a key": b'{"name": "a"}',
    "another key": b'{"name": "b"}',
    "a rotation": b'{"grace": "now"}',
    "nothing": b"null",
    "half": b'{"name": "ci"',
    "no UTF-8": b'{"name": "\xff"}',
    "deep": b"[" * 10_000,
    "largest": b'{"name": "%b"}' % (b"x" * (MAX_BODY_BYTES - 12)),
    "too large": b" " * (MAX_BODY_BYTES + 1),
}
NAMED = sampled_from([*BODIES, *["a key", "another key", "a rotation"] * 2])
KINDS = sampled_from(
    [
        *["application/json"] * 12,
        None,
        "",
        "text/plain",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "é\x80;",
    ]
)
SENT: SearchStrategy[Sent] = builds(
    Sent,
    operation=THERE | THERE | tuples(METHODS, THERE.map(lambda one: one[1]) | ELSEWHERE),
    query=sampled_from([""] * 10 + ["?", "?limit=0", "?%ff=%00", "?cursor=%", "?a&a"]),
    shown=sampled_from(["good"] * 30 + [*authorizations("x", "")]),
    kind=KINDS,
    body=NAMED | NAMED | binary(max_size=50),
    framing=sampled_from(["whole"] * 5 + ["in halves"] * 2 + ["chunked"]),
)


def test_every_response_is_in_the_document(
    sound: Server, new_api_client: NewApiClient, ada: User, issue: Issue
) -> None:
    """On a connection that goes on: what is left of a body there would be the next request."""
    (key, text), program = issue(ada), new_api_client(ada, scopes=list(Scope))
    Team.objects.update(max_keys=EXAMPLES)
    there = {"id": key.public_id, "username": "ada", "slug": key.team.slug}
    shown = authorizations(str(program.token), text)
    answered: Counter[int] = Counter()

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(sent=SENT)
    @hypothesis.example(Sent(("POST", "keys"), "", "good", "application/json", "a key", "whole"))
    @hypothesis.example(Sent(("DELETE", "keys/{id}"), "", "good", None, b"", "whole"))
    def ask(sent: Sent) -> None:
        connection = kept.pop() if kept else connect()
        sent.on(connection, there, shown[sent.shown])
        reply = connection.reply()
        require_told(reply, *sent.operation)
        answered[reply.status] += 1
        if reply.status == 204:
            there["id"] = issue(ada, f"number {answered[204]}")[0].public_id
        if reply.headers.get("connection") != "close":
            kept.append(connection)

    def connect() -> Connection:
        connection = open_ones.enter_context(sound.connect())
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    kept: list[Connection] = []
    with ExitStack() as open_ones:
        ask()
    # Or hardly anything would have been looked at.
    assert set(answered) >= {200, 201, 204, 400, 401, 404, 405, 413, 415, 422}, answered


def test_body_that_never_arrives_times_out(
    own_server: OwnServer, new_api_client: NewApiClient, ada: User
) -> None:
    server = own_server(ShortTimeoutServer)
    shown = authorizations(str(new_api_client(ada).token), "")
    with ExitStack() as open_ones:
        connections = []
        for name, part in itertools.product(("good", "half", "none"), (b"", b'{"name"')):
            connections.append(open_ones.enter_context(server.connect()))
            lines = [f"Authorization: {one}" for one in shown[name]]
            connections[-1].send(head(f"POST {KEYS}", None, 14, *lines), part)
        for connection in connections:
            reply = connection.reply()
            assert (reply.status, reply.headers["connection"]) == (408, "close")
            require_told(reply, "POST", "keys")
        assert all(connection.is_closed() for connection in connections)
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("length", [MAX_BODY_BYTES + 1, 10**15])
def test_too_large_content_length_is_refused_at_once(
    sound: Server, new_api_client: NewApiClient, ada: User, length: int
) -> None:
    with sound.connect(timeout=5) as connection:
        connection.send(head(f"POST {KEYS}", new_api_client(ada).token, length))
        reply = connection.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        require_told(reply, "POST", "keys")

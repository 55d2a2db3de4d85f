"""Each response to a malformed request is one that the OpenAPI document describes.

`test_openapi` sends what a client library would send, without a server. Here are truncated tokens,
bodies of the wrong type, too large ones, and bodies that never arrive.
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
from keyportal.catalog.models import Upstream
from keyportal.keys.models import ApiKey
from keyportal.people.models import Invitation
from keyportal.teams.models import Role, Team, User
from tests.conftest import make_person
from tests.support.api_client import NewApiClient
from tests.support.server import BareServer, Connection, Reply, Server, head

pytestmark = pytest.mark.gateway
OwnServer = Callable[..., Server]
Issue = Callable[..., tuple[ApiKey, str]]
PATHS = build_document(OPERATIONS)["paths"]
EXAMPLES = 150
KEYS = "/api/v1/keys"


class ShortTimeoutServer(BareServer):
    module = [
        "gunicorn",
        "-c",
        "python:tests.support.gunicorn_short_timeout",
        "keyportal.asgi:application",
    ]


@pytest.fixture
def healthy_server(live: Server) -> Iterator[Server]:
    """The shared server, which logs no error meanwhile."""
    logged = len(live.log)
    yield live
    assert "Traceback" not in live.log[logged:]
    assert "ERROR" not in live.log[logged:]


def responses(method: str, path: str) -> dict[str, Any]:
    """The documented responses by status; for an unknown path or method, those of errors."""
    page = PATHS.get(f"/api/v1/{path}")
    if page and (found := page.get(method.lower().replace("head", "get"))):
        return dict(found["responses"])
    operation = PATHS["/api/v1/keys/{id}"]["patch"]["responses"]
    return {status: operation[status] for status in ("405" if page else "404", "408", "413")}


def require_documented(response: Reply, method: str, path: str) -> None:
    documented = responses(method, path).get(str(response.status))
    assert documented, response
    assert response.status < 500, response
    assert response.headers["cache-control"] == "no-store"
    assert {name.lower() for name in documented["headers"]} <= {*response.headers}
    content_type = response.headers.get("content-type")
    assert content_type in documented.get("content", [None]), response
    if content_type == CONTENT_TYPE and method != "HEAD":
        problem = msgspec.json.decode(response.body, type=ProblemDetails)
        assert (problem.status, problem.request_id) == (
            response.status,
            response.headers["x-request-id"],
        )
        assert problem.type.startswith("urn:keyportal:problem:")
        assert problem.title
        assert problem.detail


class SampleRequest(NamedTuple):
    operation: tuple[str, str]
    query: str
    authorization: str
    content_type: str | None
    body: str | bytes
    """A text is a name in BODIES."""
    framing: str

    def send_on(
        self, connection: Connection, ids: dict[str, str], authorization: list[str]
    ) -> None:
        method, path = self.operation
        lines = [f"Authorization: {one}" for one in authorization]
        if self.content_type is not None:
            lines.append(f"Content-Type: {self.content_type}")
        body = BODIES[self.body] if isinstance(self.body, str) else self.body
        if self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        elif body:
            lines.append(f"Content-Length: {len(body)}")
        line = f"{method} /api/v1/{path.format(**ids)}{self.query}"
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


# Operations with a body, more often.
OPERATION_PATHS = sampled_from(
    [(one.method, one.path) for one in OPERATIONS for _ in range(4 if one.body else 1)]
)
# The body of a HEAD ends the connection.
METHODS = sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"])
UNKNOWN_PATHS = sampled_from(
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
BODY_NAMES = sampled_from([*BODIES, *["a key", "another key", "a rotation"] * 2])
CONTENT_TYPES = sampled_from(
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
REQUESTS: SearchStrategy[SampleRequest] = builds(
    SampleRequest,
    operation=OPERATION_PATHS
    | OPERATION_PATHS
    | tuples(METHODS, OPERATION_PATHS.map(lambda one: one[1]) | UNKNOWN_PATHS),
    query=sampled_from([""] * 10 + ["?", "?limit=0", "?%ff=%00", "?cursor=%", "?a&a"]),
    authorization=sampled_from(["good"] * 30 + [*authorizations("x", "")]),
    content_type=CONTENT_TYPES,
    body=BODY_NAMES | BODY_NAMES | binary(max_size=50),
    framing=sampled_from(["whole"] * 5 + ["in halves"] * 2 + ["chunked"]),
)


@pytest.mark.postgresql  # It refuses texts that SQLite stores.
def test_every_response_is_in_the_document(
    healthy_server: Server, new_api_client: NewApiClient, ada: User, issue: Issue
) -> None:
    """On persistent connections: an unread rest of a body would be taken for the next request."""
    (key, text), program = issue(ada), new_api_client(ada, scopes=list(Scope))
    Team.objects.update(max_keys=EXAMPLES)
    invitation = Invitation.objects.create(team=key.team, email="x@example.com", role="viewer")
    server = Upstream.objects.create(name="x", base_url="https://x.example.com/v1", team=key.team)
    ids = {
        "id": key.public_id,
        "username": make_person("dora", key.team, Role.MEMBER).username,
        "slug": key.team.slug,
        "invitation": str(invitation.pk),
        "account": "ci",
        "server": str(server.pk),
    }
    authorization = authorizations(str(program.token), text)
    statuses: Counter[int] = Counter()

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(request=REQUESTS)
    @hypothesis.example(
        SampleRequest(("POST", "keys"), "", "good", "application/json", "a key", "whole")
    )
    @hypothesis.example(SampleRequest(("DELETE", "keys/{id}"), "", "good", None, b"", "whole"))
    def send(request: SampleRequest) -> None:
        connection = idle.pop() if idle else connect()
        request.send_on(connection, ids, authorization[request.authorization])
        response = connection.reply()
        require_documented(response, *request.operation)
        statuses[response.status] += 1
        if response.status == 204:
            ids["id"] = issue(ada, f"number {statuses[204]}")[0].public_id
        if response.headers.get("connection") != "close":
            idle.append(connection)

    def connect() -> Connection:
        connection = stack.enter_context(healthy_server.connect())
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    idle: list[Connection] = []
    with ExitStack() as stack:
        send()
    # Otherwise the requests were too uniform to test much.
    assert set(statuses) >= {200, 201, 204, 400, 401, 404, 405, 413, 415, 422}, statuses


@pytest.mark.any_database
def test_body_that_never_arrives_times_out(
    own_server: OwnServer, new_api_client: NewApiClient, ada: User
) -> None:
    server = own_server(ShortTimeoutServer)
    authorization = authorizations(str(new_api_client(ada).token), "")
    with ExitStack() as stack:
        connections = []
        for name, part in itertools.product(("good", "half", "none"), (b"", b'{"name"')):
            connections.append(stack.enter_context(server.connect()))
            lines = [f"Authorization: {one}" for one in authorization[name]]
            connections[-1].send(head(f"POST {KEYS}", None, 14, *lines), part)
        for connection in connections:
            response = connection.reply()
            assert (response.status, response.headers["connection"]) == (408, "close")
            require_documented(response, "POST", "keys")
        assert all(connection.is_closed() for connection in connections)
    assert not ApiKey.objects.exists()


@pytest.mark.any_database
@pytest.mark.parametrize("length", [MAX_BODY_BYTES + 1, 10**15])
def test_too_large_content_length_is_refused_at_once(
    healthy_server: Server, new_api_client: NewApiClient, ada: User, length: int
) -> None:
    with healthy_server.connect() as connection:
        connection.send(head(f"POST {KEYS}", new_api_client(ada).token, length))
        response = connection.reply()
        assert (response.status, response.headers["connection"]) == (413, "close")
        require_documented(response, "POST", "keys")

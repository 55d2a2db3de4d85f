"""Unusual paths: which endpoint they mean, and that permissions and usage follow the endpoint."""

from collections.abc import Callable

import pytest
from django.urls import Resolver404, resolve

from keyportal.catalog.models import ServedModel
from keyportal.gateway.aliases import (
    ALIASES,
    DEPLOYMENT_ENDPOINTS,
    DEPLOYMENTS,
    Match,
    expects_anthropic,
    find,
)
from keyportal.gateway.endpoints import ENDPOINTS
from keyportal.http.types import Headers
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.models import Team, User
from keyportal.usage.models import Call
from tests.support.server import Server, chat_body, wait_until

pytestmark = pytest.mark.any_database
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions/", CHAT),
        ("/v1/chat/completions//", CHAT),
        ("//v1//chat///completions", CHAT),
        ("/chat/completions", CHAT),
        ("/chat/completions/", CHAT),
        ("/v1/v1/chat/completions", CHAT),
        ("/v1//v1/chat/completions", CHAT),
        ("/openai/v1/chat/completions", CHAT),
        ("/completions", "/v1/completions"),
        ("/responses", "/v1/responses"),
        ("/openai/responses", "/v1/responses"),
        ("/messages", "/v1/messages"),
        ("/v1/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/embeddings", "/v1/embeddings"),
        ("/rerank", "/v1/rerank"),
        ("/v2/rerank", "/v1/rerank"),
        ("/audio/transcriptions/", "/v1/audio/transcriptions"),
        ("/models", "/v1/models"),
        ("/models/", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/openai/models", "/v1/models"),
        ("/models/public/small", "/v1/models/public/small"),
        ("/v1/models/public/small/", "/v1/models/public/small"),
        ("/v1/v1/models/public/small", "/v1/models/public/small"),
        ("/responses/resp_1", "/v1/responses/resp_1"),
        ("/openai/responses/resp_1/cancel", "/v1/responses/resp_1/cancel"),
        ("/v1/key/", "/v1/key"),
    ],
)
def test_path_means_an_endpoint(path: str, expected: str) -> None:
    assert find(path) == Match(expected)


@pytest.mark.parametrize(
    ("path", "expected", "model"),
    [
        ("/openai/deployments/small/chat/completions", CHAT, "small"),
        ("/openai/deployments/public/small/chat/completions", CHAT, "public/small"),
        ("/openai/deployments/public/small/completions", "/v1/completions", "public/small"),
        ("//openai/deployments/small/embeddings/", "/v1/embeddings", "small"),
        ("/openai/deployments/a/chat/completions/chat/completions", CHAT, "a/chat/completions"),
    ],
)
def test_azures_path_names_the_model(path: str, expected: str, model: str) -> None:
    assert find(path) == Match(expected, model)


@pytest.mark.parametrize(
    "path",
    ["", "/", "*", "v1/chat/completions", "/v1", "/v1/", "/v1/nothing", "/v1/v1",
     "/v1/v1/v1/models",
     "/v1/v1/../chat/completions", "/v1/../v1/chat/completions", "/v1/./chat/completions",
     "/v1/chat%2fcompletions", "/v1/chat/completions;x", "/v1/chat/completions?x",
     "/V1/chat/completions", "/Chat/Completions", "/chat", "/x/chat/completions", "/v1x/models",
     "/v2/models", "/v2/chat/completions", "/v1/chat/completions/x", "/v1/messages/batches",
     "/api/models", "/api/v1/models", "/api/v1/keys", "/key", "/auth/verify",
     "/auth/verify/models/x",
     "/teams/acme/models/", "/teams/acme/models/3/", "/x/models/y", "/static/models/x",
     "/openai/chat/completions", "/openai/deployments", "/openai/deployments/a",
     "/openai/deployments/chat/completions/x", "/openai/deployments/embeddings",
     "/openai/deployments/a/messages", "/openai/deployments/a/models",
     "/v1/deployments/a/embeddings",
     "/openai/deployments/a/embeddings/../chat/completions/x"],
)  # fmt: skip
def test_any_other_path_means_nothing(path: str) -> None:
    """Attack: a path that a proxy in front, or the model server, reads as another."""
    assert find(path) is None


def test_no_alias_is_a_page_of_the_portal() -> None:
    aliases = {*ALIASES, "/models/x", f"{DEPLOYMENTS}x/chat/completions"}
    for path in aliases:
        for page in (path, f"{path}/"):
            with pytest.raises(Resolver404):
                resolve(page)


def test_every_endpoint_has_its_aliases_and_a_deployment_only_known_ones() -> None:
    """An endpoint that is added to the table is reachable in the same ways."""
    assert set(ALIASES.values()) == {*ENDPOINTS, "/v1/models", "/v1/key"}
    assert {f"/v1{path}" for path in DEPLOYMENT_ENDPOINTS} <= set(ENDPOINTS)


VERSION: Headers = [(b"anthropic-version", b"2023-06-01")]
X_API_KEY: Headers = [(b"x-api-key", b"")]


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/v1/messages", [], True),
        ("/v1/messages/batches", [], True),
        ("/v1/messagesx", [], False),
        (CHAT, VERSION + X_API_KEY, False),
        ("/v1/models", [], False),
        ("/v1/models", X_API_KEY, False),
        ("/v1/models/x", X_API_KEY, False),
        ("/v1/models", VERSION, True),
        ("/v1/models/x", VERSION, True),
        ("/v1/nothing", [], False),
        ("/v1/nothing", [(b"authorization", b""), (b"api-key", b"")], False),
        ("/v1/nothing", X_API_KEY, True),
        ("/v1/nothing", VERSION, True),
    ],
)
def test_shape_of_answers_is_that_of_the_client(
    path: str, headers: Headers, expected: bool
) -> None:
    assert expects_anthropic(path, headers) is expected


@pytest.mark.gateway
def test_permissions_hold_at_every_alias(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    """Attack: a key for embeddings calls chat at a path that is not checked."""
    name = serve_model("echo")
    kinds = {kind: issue(alice, kind, permissions=Permissions(endpoints=kind))[1]
             for kind in (Endpoints.CHAT, Endpoints.EMBEDDINGS, Endpoints.READ)}  # fmt: skip
    deployments = {
        f"{DEPLOYMENTS}{name}{path}": f"/v1{path}" for path in ("/chat/completions", "/embeddings")
    }
    for alias, path in {**ALIASES, **deployments, "//v1//embeddings/": "/v1/embeddings"}.items():
        if path not in ENDPOINTS:
            continue
        for kind, key in kinds.items():
            reply = live.request("POST", alias, key=key, body={"model": name})
            if ENDPOINTS[path].kind == kind:
                assert reply.status == 200, alias
            else:
                assert reply.status == 403, alias
                assert "may not use this endpoint" in reply.body.decode()


@pytest.mark.gateway
def test_methods_and_missing_keys_are_refused_at_an_alias_as_at_its_endpoint(
    live: Server, alice: User, issue: Issue
) -> None:
    _, key = issue(alice)
    aliases = ("/chat/completions", "/v1/v1/chat/completions", f"{DEPLOYMENTS}a/chat/completions")
    for path in (CHAT, *aliases):
        for method in ("GET", "HEAD", "OPTIONS", "DELETE", "PUT"):
            reply = live.request(method, path, key=key)
            assert (reply.status, reply.headers["allow"]) == (405, "POST"), path
        assert live.request("POST", path, body={"model": "x"}).status == 401
        assert live.request("POST", f"{path}?api_key={key}&key={key}", body={}).status == 401
    for path in ("/models", "/v1/v1/models", "/models/"):
        assert live.request("GET", path).status == 401
        assert live.request("GET", path, key=key).json()["object"] == "list"
        head = live.request("HEAD", path, key=key)
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) > 0
        assert live.request("POST", path, key=key).headers["allow"] == "GET, HEAD"


@pytest.mark.gateway
def test_usage_names_the_endpoint(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    api_key, key = issue(alice)
    name = serve_model("normal")
    for path in ("/chat/completions", "/v1/v1/chat/completions/", "//v1/chat/completions",
                 f"{DEPLOYMENTS}{name.replace('/', '%2F')}/chat/completions?api-version=1",
                 f"{DEPLOYMENTS}{name}/chat/completions"):  # fmt: skip
        assert live.request("POST", path, key=key, body=chat_body(name)).status == 200
    calls = Call.objects.filter(public_id=api_key.public_id)
    wait_until(lambda: calls.count() == 5)
    assert set(calls.values_list("endpoint", "model")) == {("/chat/completions", name)}


@pytest.mark.gateway
def test_a_deployment_is_checked_like_a_model_in_the_body(
    live: Server, alice: User, other_team: Team, model: ServedModel, issue: Issue
) -> None:
    """Attack: another team's model, or one that the key may not call, named in the path."""
    ServedModel.objects.create(name=f"{other_team.slug}/theirs", team=other_team)
    _, wide = issue(alice, "wide")
    _, narrow = issue(alice, "narrow", permissions=Permissions(("public/*",)))
    messages = {"messages": [{"role": "user", "content": "Hi"}]}

    def chat(key: str, deployment: str, **body: object) -> tuple[int, str]:
        path = f"{DEPLOYMENTS}{deployment}/chat/completions"
        reply = live.request("POST", path, key=key, body=messages | body)
        return reply.status, "" if reply.status == 200 else reply.code

    assert chat(wide, model.name) == (200, "")
    assert chat(wide, model.name, model=model.name) == (200, "")
    for other in ("public/other", f"{other_team.slug}/theirs", ""):
        assert chat(wide, model.name, model=other) == (400, "invalid_request")
        assert chat(wide, other or "x", model=model.name) == (400, "invalid_request")
    assert chat(wide, model.name, model=None) == (400, "missing_required_parameter")
    assert chat(narrow, model.name) == (403, "model_not_allowed")
    for hidden in (
        f"{other_team.slug}/theirs",
        "u-0000000000cc/no",
        "..",
        f"x%2f..%2f{model.name}",
    ):
        assert chat(wide, hidden) == (404, "model_not_found")

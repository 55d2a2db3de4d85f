"""A permission that a key loses is refused from the next request on, on every worker, with an error
that names it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
from django.db.models import Sum
from django.utils import timezone

from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.catalog.models import ServedModel
from keyportal.keys.changes import Changes, change_key, disable, enable
from keyportal.keys.models import ApiKey
from keyportal.keys.rotation import GracePeriod, revoke_old_secret, rotate
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.usage.models import Sighting, Window
from tests.support.load import LoadGenerator
from tests.support.server import CHAT, Reply, Server, chat_body, head, wait_until

pytestmark = pytest.mark.gateway
Issue = Callable[..., tuple[ApiKey, str]]
OwnServer = Callable[..., Server]
ELSEWHERE = Permissions(networks=("198.51.100.0/24",))
HERE = Permissions(networks=("127.0.0.0/8",))
EMBED = "/v1/embeddings"


def permit(permissions: Permissions) -> Callable[[ApiKey], object]:
    return lambda key: change_key(key, Changes(permissions=permissions), actor=key.owner)


@dataclass
class Restriction:
    """A change that takes something away, and the error afterwards."""

    act: Callable[[ApiKey], object]
    status: int
    code: str
    says: str


def expire(key: ApiKey) -> None:
    change_key(key, Changes(expires_at=timezone.now()), actor=key.owner)


def end_rotation(key: ApiKey) -> None:
    rotate(key, GracePeriod.WEEK, actor=key.owner)
    revoke_old_secret(key, actor=key.owner)


TAKINGS = {
    "deleted": Restriction(
        lambda key: key.revoke(actor=key.owner), 401, "invalid_api_key", "Incorrect API key"
    ),
    "disabled": Restriction(
        lambda key: disable(key, actor=key.owner), 401, "invalid_api_key", "Incorrect API key"
    ),
    "expired": Restriction(expire, 401, "invalid_api_key", "Incorrect API key"),
    "rotated": Restriction(
        lambda key: rotate(key, GracePeriod.NOW, actor=key.owner),
        401,
        "invalid_api_key",
        "Incorrect",
    ),
    "rotation ended": Restriction(end_rotation, 401, "invalid_api_key", "Incorrect"),
    "models": Restriction(
        permit(Permissions(("public/*",))), 403, "model_not_allowed", "it may call: public/*."
    ),
    "endpoints": Restriction(
        permit(Permissions(endpoints=Endpoints.EMBEDDINGS)),
        403,
        "endpoint_not_allowed",
        "It is for: embeddings only.",
    ),
    "read-only": Restriction(
        permit(Permissions(endpoints=Endpoints.READ)), 403, "endpoint_not_allowed", "read-only"
    ),
    "networks": Restriction(
        permit(ELSEWHERE), 403, "address_not_allowed", "the address 127.0.0.1."
    ),
}


def chat(key: str, model: str, *more: str) -> bytes:
    """One complete request."""
    body = json.dumps(chat_body(model)).encode()
    return head(f"POST {CHAT}", key, len(body), *more) + body


def verification(key: str, model: str, *more: str) -> bytes:
    """The forward auth request of a proxy for the same request."""
    told = (f"X-Keyportal-Model: {model}", f"X-Original-URI: {CHAT}", "X-Original-Method: POST")
    return head("GET /auth/verify", key, None, *told, *more)


def require_refused_from_then_on(
    load: LoadGenerator, act: Callable[[], object], name: str, restriction: Restriction
) -> None:
    later = load.during(act, before=30, after=60)
    assert set(later) == {restriction.status}, name
    assert set(load.statuses_since(0)) == {200, restriction.status}, name
    assert load.last_reply.code == restriction.code, name
    assert restriction.says in load.last_reply.json()["error"]["message"], name


def test_no_request_after_the_change_is_served(
    live: Server, bob: User, issue: Issue, model: ServedModel
) -> None:
    """Clients send requests without a pause, to all workers."""
    for name, restriction in TAKINGS.items():
        key, text = issue(bob, name)
        load = LoadGenerator(live, chat(text, model.name), connections=6)
        require_refused_from_then_on(load, partial(restriction.act, key), name, restriction)


# The same changes by the management API: method, path below the key's, and body. It doesn't accept
# an expiry in the past.
ASKED: dict[str, list[tuple[str, str, object]]] = {
    "deleted": [("DELETE", "", None)],
    "disabled": [("POST", "/disable", None)],
    "rotated": [("POST", "/rotate", {"grace": "now"})],
    "rotation ended": [
        ("POST", "/rotate", {"grace": "7d"}),
        ("POST", "/end-old-secret", None),
    ],
    "models": [("PATCH", "", {"permissions": {"models": ["public/*"]}})],
    "endpoints": [("PATCH", "", {"permissions": {"endpoints": "embeddings"}})],
    "read-only": [("PATCH", "", {"permissions": {"endpoints": "read"}})],
    "networks": [("PATCH", "", {"permissions": {"networks": [*ELSEWHERE.networks]}})],
}


@pytest.mark.any_database
def test_no_forward_auth_request_passes_after_the_change(
    live: Server, bob: User, issue: Issue, model: ServedModel, team: Team
) -> None:
    """Forward auth on all workers, one of which handles the change over HTTP."""
    _, program = ManagementKey.objects.issue(
        team=team, owner=bob, actor=None, name="deploy", scopes=[Scope.KEYS_WRITE]
    )

    def ask_for(name: str, key: ApiKey) -> None:
        for method, place, body in ASKED[name]:
            path = f"/api/v1/keys/{key.public_id}{place}"
            answer = live.request(method, path, key=program.text, body=body)
            assert answer.status in {200, 204}, answer.body

    assert TAKINGS.keys() - ASKED.keys() == {"expired"}
    for name, restriction in TAKINGS.items():
        key, text = issue(bob, name)
        act = partial(ask_for, name, key) if name in ASKED else partial(restriction.act, key)
        load = LoadGenerator(live, verification(text, model.name), connections=6)
        require_refused_from_then_on(load, act, name, restriction)


@pytest.mark.any_database
def test_no_request_from_another_network_is_served_behind_a_proxy(
    own_server: OwnServer, bob: User, issue: Issue, model: ServedModel
) -> None:
    """Only the address that the trusted proxy appended counts."""
    server = own_server(KEYPORTAL_TRUSTED_PROXIES="127.0.0.1")
    both = Permissions(networks=("192.0.2.0/24", "2001:db8::/32"))
    key, text = issue(bob, actor=bob, permissions=both)
    for request_of in (chat, verification):
        for seen, status in {
            "192.0.2.7": 200,
            "2001:db8::5": 200,
            "::ffff:192.0.2.7": 200,
            "203.0.113.9, 192.0.2.7": 200,
            "192.0.2.7, 203.0.113.9": 403,  # The client itself sent the first one.
            "192.0.2.7, nonsense": 403,
            "": 403,  # The proxy itself.
        }.items():
            reply = ask(server, request_of(text, model.name, f"X-Forwarded-For: {seen}"))
            assert reply.status == status, (request_of, seen)
    permit(ELSEWHERE)(key)
    for request_of in (chat, verification):
        reply = ask(server, request_of(text, model.name, "X-Forwarded-For: 192.0.2.7"))
        assert reply.status == 403, request_of
        assert "the address 192.0.2.7." in reply.json()["error"]["message"]


def ask(server: Server, request: bytes) -> Reply:
    with server.connect() as connection:
        connection.send(request)
        return connection.reply()


@pytest.mark.any_database
def test_untrusted_client_can_not_choose_its_address(live: Server, bob: User, issue: Issue) -> None:
    """Attack: a client sends X-Forwarded-For with an allowed address."""
    _, text = issue(bob, permissions=Permissions(networks=("192.0.2.0/24",)))
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Client-IP"):
        value = "for=192.0.2.7" if name == "Forwarded" else "192.0.2.7"
        reply = live.request("GET", "/v1/models", key=text, headers={name: value})
        assert (reply.status, reply.code) == (403, "address_not_allowed")
        assert "127.0.0.1" in reply.json()["error"]["message"]


def test_refused_address_uses_no_limit(
    live: Server, bob: User, issue: Issue, model: ServedModel
) -> None:
    """Attack: a thief uses up the limits of a stolen key from a network that is not allowed."""
    key, text = issue(
        bob,
        actor=bob,
        permissions=ELSEWHERE,
        limits=Limits(requests_per_day=2, parallel_requests=1),
    )
    for _ in range(5):
        reply = live.chat(text, model.name)
        assert (reply.status, reply.code) == (403, "address_not_allowed")
        assert not [name for name in reply.headers if name.startswith("x-ratelimit")]
    assert not Window.objects.exists()
    permit(HERE)(key)
    assert [live.chat(text, model.name).status for _ in range(3)] == [200, 200, 429]


def test_refused_address_is_counted_for_the_alarm_on_every_path(
    live: Server, bob: User, issue: Issue, model: ServedModel
) -> None:
    """Attack: a thief tries a stolen key from a network that is not allowed."""
    key, text = issue(bob, permissions=ELSEWHERE)
    assert live.chat(text, model.name).status == 403
    for path in ("/v1/models", "/v1/key", "/auth/verify"):
        assert live.request("GET", path, key=text).status == 403
    refusals = Sighting.objects.filter(public_id=key.public_id, network="")
    wait_until(lambda: refusals.aggregate(number=Sum("count"))["number"] == 4)
    assert key.secrets.get().last_used_at is None


@pytest.mark.any_database
@pytest.mark.parametrize("name", ["models", "endpoints", "networks"])
def test_anthropics_clients_get_their_format(
    live: Server, bob: User, issue: Issue, model: ServedModel, name: str
) -> None:
    key, text = issue(bob)
    TAKINGS[name].act(key)
    body = {"model": model.name, "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    reply = live.request("POST", "/v1/messages", body=body, headers={"x-api-key": text})
    assert reply.status == 403
    told = reply.json()
    assert told["type"] == "error"
    assert told["error"]["type"] == "permission_error"
    assert TAKINGS[name].says in told["error"]["message"]
    assert told["request_id"] == reply.headers["request-id"]


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("endpoints", "chats", "embeds"),
    [
        (Endpoints.ALL, 200, 200),
        (Endpoints.CHAT, 200, 403),
        (Endpoints.EMBEDDINGS, 403, 200),
        (Endpoints.READ, 403, 403),
    ],
)
def test_key_may_call_only_its_endpoints(
    live: Server,
    bob: User,
    issue: Issue,
    model: ServedModel,
    endpoints: Endpoints,
    chats: int,
    embeds: int,
) -> None:
    """And each may list the models."""
    _, text = issue(bob, permissions=Permissions(endpoints=endpoints))
    assert live.chat(text, model.name).status == chats
    embedding = live.request("POST", EMBED, key=text, body={"model": model.name, "input": "Hi"})
    assert embedding.status == embeds
    assert live.request("GET", "/v1/models", key=text).status == 200
    moderation = live.request("POST", "/v1/moderations", key=text, body={"model": model.name})
    assert (moderation.status == 403) is (endpoints is not Endpoints.ALL)


@pytest.mark.any_database
def test_pattern_allows_the_models_it_matches(
    live: Server, bob: User, issue: Issue, serve_model: Callable[..., str]
) -> None:
    small, large = serve_model("echo", "small"), serve_model("echo", "large")
    _, text = issue(bob, permissions=Permissions(("u-*/sm*",)))
    assert live.chat(text, small).status == 200
    assert live.chat(text, large).code == "model_not_allowed"
    assert live.request("GET", f"/v1/models/{large}", key=text).status == 403
    listed = live.request("GET", "/v1/models", key=text).json()["data"]
    assert [one["id"] for one in listed] == [small]


def raw(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    """A response without the parts that depend on the time."""
    return reply.status, {**reply.headers, "date": ""}, reply.body


@pytest.mark.any_database
def test_disabled_key_is_answered_byte_for_byte_like_a_deleted_one(
    live: Server, bob: User, issue: Issue, model: ServedModel
) -> None:
    answers = []
    takes: dict[str, Callable[[ApiKey], object]] = {
        "deleted": lambda key: key.revoke(actor=bob),
        "disabled": lambda key: disable(key, actor=bob),
        "expired": expire,
        "rotated": lambda key: rotate(key, GracePeriod.NOW, actor=bob),
        "disabled, from elsewhere": lambda key: (permit(ELSEWHERE)(key), disable(key, actor=bob)),
    }
    for name, take in takes.items():
        key, text = issue(bob, name)
        take(key)
        headers = {"Authorization": f"Bearer {text}", "X-Request-Id": "mine"}
        for path in (CHAT, "/v1/messages"):
            body = chat_body(model.name)
            answers.append((path, raw(live.request("POST", path, headers=headers, body=body))))
    assert len({repr(one) for path, one in answers if path == CHAT}) == 1, answers
    assert len({repr(one) for path, one in answers if path != CHAT}) == 1, answers


def test_enabled_key_works_again(live: Server, bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    disable(key, actor=bob)
    assert live.request("GET", "/v1/models", key=text).status == 401
    enable(key, actor=bob)
    assert live.request("GET", "/v1/models", key=text).status == 200

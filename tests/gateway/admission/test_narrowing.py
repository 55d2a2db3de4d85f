"""What is taken away from a key is refused from the next request on, on every worker; and what is
refused says what was missing."""

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
WORKERS = 4
ELSEWHERE = Permissions(networks=("198.51.100.0/24",))
HERE = Permissions(networks=("127.0.0.0/8",))
EMBED = "/v1/embeddings"


def permit(permissions: Permissions) -> Callable[[ApiKey], object]:
    return lambda key: change_key(key, Changes(permissions=permissions), actor=key.owner)


@dataclass
class Taking:
    """Something that is taken away, and how those who go on are refused."""

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
    "deleted": Taking(
        lambda key: key.revoke(actor=key.owner), 401, "invalid_api_key", "Incorrect API key"
    ),
    "disabled": Taking(
        lambda key: disable(key, actor=key.owner), 401, "invalid_api_key", "Incorrect API key"
    ),
    "expired": Taking(expire, 401, "invalid_api_key", "Incorrect API key"),
    "rotated": Taking(
        lambda key: rotate(key, GracePeriod.NOW, actor=key.owner),
        401,
        "invalid_api_key",
        "Incorrect",
    ),
    "rotation ended": Taking(end_rotation, 401, "invalid_api_key", "Incorrect"),
    "models": Taking(
        permit(Permissions(("public/*",))), 403, "model_not_allowed", "it may call: public/*."
    ),
    "endpoints": Taking(
        permit(Permissions(endpoints=Endpoints.EMBEDDINGS)),
        403,
        "endpoint_not_allowed",
        "It is for: embeddings only.",
    ),
    "read-only": Taking(
        permit(Permissions(endpoints=Endpoints.READ)), 403, "endpoint_not_allowed", "read-only"
    ),
    "networks": Taking(permit(ELSEWHERE), 403, "address_not_allowed", "the address 127.0.0.1."),
}


def chat(key: str, model: str, *more: str) -> bytes:
    """One whole request."""
    body = json.dumps(chat_body(model)).encode()
    return head(f"POST {CHAT}", key, len(body), *more) + body


def verification(key: str, model: str, *more: str) -> bytes:
    """What a proxy asks that holds the same request."""
    told = (f"X-Keyportal-Model: {model}", f"X-Original-URI: {CHAT}", "X-Original-Method: POST")
    return head("GET /auth/verify", key, None, *told, *more)


def require_refused_from_then_on(
    load: LoadGenerator, act: Callable[[], object], name: str, taking: Taking
) -> None:
    later = load.during(act, before=100, after=400)
    assert set(later) == {taking.status}, name
    assert set(load.statuses_since(0)) == {200, taking.status}, name
    assert load.last_reply.code == taking.code, name
    assert taking.says in load.last_reply.json()["error"]["message"], name


def test_no_request_after_the_change_is_served(
    live: Server, bob: User, issue: Issue, model: ServedModel
) -> None:
    """Of those that clients send without a pause, to all workers."""
    for name, taking in TAKINGS.items():
        key, text = issue(bob, name)
        load = LoadGenerator(live, chat(text, model.name), connections=6)
        require_refused_from_then_on(load, partial(taking.act, key), name, taking)


# The same things taken away by the API: how it is asked, and where beneath the key's address. What
# has ended already is no end that it takes.
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


def test_no_verification_after_the_answer_to_the_change_passes(
    live: Server, bob: User, issue: Issue, model: ServedModel, team: Team
) -> None:
    """Forward auth on all workers, of which one answers the request for the change over HTTP."""
    _, program = ManagementKey.objects.issue(
        team=team, owner=bob, name="deploy", scopes=[Scope.KEYS_WRITE]
    )

    def ask_for(name: str, key: ApiKey) -> None:
        for method, place, body in ASKED[name]:
            path = f"/api/v1/keys/{key.public_id}{place}"
            answer = live.request(method, path, key=program.text, body=body)
            assert answer.status in {200, 204}, answer.body

    assert TAKINGS.keys() - ASKED.keys() == {"expired"}
    for name, taking in TAKINGS.items():
        key, text = issue(bob, name)
        act = partial(ask_for, name, key) if name in ASKED else partial(taking.act, key)
        load = LoadGenerator(live, verification(text, model.name), connections=6)
        require_refused_from_then_on(load, act, name, taking)


@pytest.mark.parametrize("request_of", [chat, verification])
def test_no_request_from_elsewhere_is_served_behind_a_proxy(
    own_server: OwnServer,
    bob: User,
    issue: Issue,
    model: ServedModel,
    request_of: Callable[..., bytes],
) -> None:
    """The address is the one that a trusted proxy tells, and no other one in the same header."""
    server = own_server(workers=WORKERS, KEYPORTAL_TRUSTED_PROXIES="127.0.0.1")
    both = Permissions(networks=("192.0.2.0/24", "2001:db8::/32"))
    key, text = issue(bob, actor=bob, permissions=both)
    load = LoadGenerator(server, request_of(text, model.name, "X-Forwarded-For: 192.0.2.7"))
    later = load.during(lambda: permit(ELSEWHERE)(key), before=100, after=400)
    assert set(later) == {403}
    assert set(load.statuses_since(0)) == {200, 403}
    assert "the address 192.0.2.7." in load.last_reply.json()["error"]["message"]
    permit(both)(key)
    for seen, status in {
        "192.0.2.7": 200,
        "2001:db8::5": 200,
        "::ffff:192.0.2.7": 200,
        "203.0.113.9, 192.0.2.7": 200,
        "192.0.2.7, 203.0.113.9": 403,  # Whoever came wrote the first one themselves.
        "192.0.2.7, nonsense": 403,
        "": 403,  # The proxy itself.
    }.items():
        with server.connect() as connection:
            connection.send(request_of(text, model.name, f"X-Forwarded-For: {seen}"))
            assert connection.reply().status == status, seen


def test_who_is_no_trusted_proxy_chooses_no_address(live: Server, bob: User, issue: Issue) -> None:
    """The attacker's way around: to say that one comes from where the key may be used."""
    _, text = issue(bob, permissions=Permissions(networks=("192.0.2.0/24",)))
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Client-IP"):
        value = "for=192.0.2.7" if name == "Forwarded" else "192.0.2.7"
        reply = live.request("GET", "/v1/models", key=text, headers={name: value})
        assert (reply.status, reply.code) == (403, "address_not_allowed")
        assert "127.0.0.1" in reply.json()["error"]["message"]


def test_a_refused_address_uses_nothing_of_the_limits(
    live: Server, bob: User, issue: Issue, model: ServedModel
) -> None:
    """Nobody who has stolen a key can use up what its owner may, from where it can't be used."""
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


def test_a_refused_address_is_counted_for_the_alarm_at_every_door(
    live: Server, bob: User, issue: Issue, model: ServedModel
) -> None:
    """A stolen key that is tried where it can't be used must not be tried in silence."""
    key, text = issue(bob, permissions=ELSEWHERE)
    assert live.chat(text, model.name).status == 403
    for path in ("/v1/models", "/v1/key", "/auth/verify"):
        assert live.request("GET", path, key=text).status == 403
    refusals = Sighting.objects.filter(public_id=key.public_id, what="")
    wait_until(lambda: refusals.aggregate(number=Sum("count"))["number"] == 4)
    assert key.secrets.get().last_used_at is None


@pytest.mark.parametrize("name", ["models", "endpoints", "networks"])
def test_anthropics_clients_are_told_in_their_shape(
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


@pytest.mark.parametrize(
    ("endpoints", "chats", "embeds"),
    [
        (Endpoints.ALL, 200, 200),
        (Endpoints.CHAT, 200, 403),
        (Endpoints.EMBEDDINGS, 403, 200),
        (Endpoints.READ, 403, 403),
    ],
)
def test_each_kind_of_key_opens_what_it_is_for(
    live: Server,
    bob: User,
    issue: Issue,
    model: ServedModel,
    endpoints: Endpoints,
    chats: int,
    embeds: int,
) -> None:
    """And each may look at the models."""
    _, text = issue(bob, permissions=Permissions(endpoints=endpoints))
    assert live.chat(text, model.name).status == chats
    embedding = live.request("POST", EMBED, key=text, body={"model": model.name, "input": "Hi"})
    assert embedding.status == embeds
    assert live.request("GET", "/v1/models", key=text).status == 200
    moderation = live.request("POST", "/v1/moderations", key=text, body={"model": model.name})
    assert (moderation.status == 403) is (endpoints is not Endpoints.ALL)


def test_a_pattern_opens_what_it_matches(
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
    """All of an answer but what names the moment."""
    return reply.status, {**reply.headers, "date": ""}, reply.body


def test_a_disabled_key_is_answered_byte_for_byte_like_a_deleted_one(
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


def test_what_was_disabled_works_again_when_it_is_enabled(
    live: Server, bob: User, issue: Issue
) -> None:
    key, text = issue(bob)
    disable(key, actor=bob)
    assert live.request("GET", "/v1/models", key=text).status == 401
    enable(key, actor=bob)
    assert live.request("GET", "/v1/models", key=text).status == 200

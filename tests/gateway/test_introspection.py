"""`GET /v1/key`: what a key can read about itself, and about no other."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection as database
from django.utils import timezone

from keyportal.catalog.models import ServedModel
from keyportal.keys.changes import Changes, change_key, disable
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import GracePeriod, rotate
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.usage.models import Call, Kind, Window
from tests.support.server import Server, wait_until

pytestmark = pytest.mark.gateway
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
KEY = "/v1/key"


@pytest.mark.any_database
def test_key_without_restrictions(
    live: Server, team: Team, bob: User, issue: Issue, model: ServedModel
) -> None:
    key, text = issue(bob, "ci")
    reply = live.request("GET", KEY, key=text)
    assert reply.status == 200
    assert reply.json() == {
        "object": "key",
        "public_id": key.public_id,
        "name": "ci",
        "team": team.slug,
        "expires_at": None,
        "expires_when_new_used": False,
        "permissions": {"models": [], "endpoints": "all", "networks": []},
        "limits": [],
        "models": [model.name],
    }


@pytest.mark.any_database
def test_response_is_not_cacheable_and_contains_no_secret(
    live: Server, bob: User, issue: Issue
) -> None:
    _, text = issue(bob)
    reply = live.request("GET", KEY, key=text)
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"]
    everything = repr(reply)
    assert text not in everything
    # Not even the part that the portal shows.
    assert text[-4:] not in everything.replace(reply.headers["x-request-id"], "")
    assert text[14:] not in everything


def test_restricted_and_limited_key(
    live: Server, team: Team, bob: User, issue: Issue, serve_model: Serve
) -> None:
    small = serve_model("count:3,5", "small")
    serve_model("echo", "large")
    end = datetime(2099, 1, 31, 18, tzinfo=UTC)
    permissions = Permissions(("u-*/small",), Endpoints.CHAT, ("127.0.0.0/8",))
    _, text = issue(
        bob,
        permissions=permissions,
        expires_at=end,
        limits=Limits(requests_per_day=10, tokens_per_month=1000, parallel_requests=2),
    )
    Team.objects.update(limits=Limits(requests_per_month=50))
    assert live.chat(text, small).status == 200
    response: dict[str, object] = {}

    def have_tokens_counted() -> bool:
        response.update(live.request("GET", KEY, key=text).json())
        return bool(response["limits"][1]["used"])  # type: ignore[index]  # of JSON

    wait_until(have_tokens_counted)
    assert datetime.fromisoformat(str(response["expires_at"])) == end
    assert response["permissions"] == {
        "models": ["u-*/small"],
        "endpoints": "chat",
        "networks": ["127.0.0.0/8"],
    }
    assert response["models"] == [small]
    now = timezone.now()
    tomorrow = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    requests, tokens, parallel, team_limit = response["limits"]  # type: ignore[misc]  # a list, of JSON
    assert datetime.fromisoformat(requests.pop("resets_at")) == tomorrow  # type: ignore[has-type]
    assert requests == {  # type: ignore[has-type]
        "of": "key",
        "name": "requests_per_day",
        "limit": 10,
        "used": 1,
        "remaining": 9,
    }
    assert (tokens["name"], tokens["used"], tokens["remaining"]) == ("tokens_per_month", 8, 992)  # type: ignore[has-type]
    assert parallel["resets_at"] is None  # type: ignore[has-type]
    assert (team_limit["of"], team_limit["name"]) == ("team", "requests_per_month")  # type: ignore[has-type]
    assert team_limit["remaining"] == 49  # type: ignore[has-type]


def test_usage_above_a_lowered_limit_leaves_zero(live: Server, bob: User, issue: Issue) -> None:
    key, text = issue(bob, limits=Limits(tokens_per_month=10))
    start = timezone.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    Window.objects.create(subject=f"key:{key.public_id}", kind=Kind.MONTH, start=start, tokens=25)
    (limit,) = live.request("GET", KEY, key=text).json()["limits"]
    assert (limit["used"], limit["remaining"]) == (25, 0)


@pytest.mark.any_database
def test_request_is_no_call(live: Server, bob: User, issue: Issue, model: ServedModel) -> None:
    """It is not counted, is in no list, and is answered when all limits are used up."""
    key, text = issue(bob, limits=Limits(requests_per_day=1))
    assert live.chat(text, model.name).status == 200
    assert live.chat(text, model.name).status == 429
    for _ in range(3):
        reply = live.request("GET", KEY, key=text)
        assert reply.status == 200
        assert reply.json()["limits"][0]["used"] == 1
    wait_until(lambda: Call.objects.filter(public_id=key.public_id).exists())
    # The refused call has no endpoint, because it was refused by admission.
    mine = Call.objects.filter(public_id=key.public_id)
    assert set(mine.values_list("endpoint", "status")) <= {
        ("/chat/completions", 200),
        ("", 429),
    }


@pytest.mark.any_database
def test_read_only_key_is_answered(live: Server, bob: User, issue: Issue) -> None:
    _, text = issue(bob, permissions=Permissions(endpoints=Endpoints.READ))
    assert live.request("GET", KEY, key=text).json()["permissions"]["endpoints"] == "read"


@pytest.mark.any_database
def test_anthropics_client_is_answered(live: Server, bob: User, issue: Issue) -> None:
    _, text = issue(bob)
    assert live.request("GET", KEY, headers={"x-api-key": text}).status == 200


@pytest.mark.any_database
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(live: Server, bob: User, issue: Issue, method: str) -> None:
    _, text = issue(bob)
    reply = live.request(method, KEY, key=text, body={"name": "mine"})
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.any_database
def test_similar_paths_are_not_found(live: Server, bob: User, issue: Issue) -> None:
    other, _ = issue(bob, "other")
    _, text = issue(bob)
    for path in (f"{KEY}/{other.public_id}", f"{KEY}s", "/v1/v1/key"):
        assert live.request("GET", path, key=text).status == 404
    response = live.request("GET", f"{KEY}?public_id={other.public_id}", key=text)
    assert response.json()["name"] == "test-key"


@pytest.mark.any_database
def test_invalid_keys_are_refused(live: Server, bob: User, issue: Issue) -> None:
    assert live.request("GET", KEY).status == 401
    key, text = issue(bob)
    change_key(key, Changes(permissions=Permissions(networks=("198.51.100.0/24",))), actor=bob)
    reply = live.request("GET", KEY, key=text)
    assert (reply.status, reply.code) == (403, "address_not_allowed")
    assert key.name.encode() not in reply.body
    disable(key, actor=bob)
    assert live.request("GET", KEY, key=text).code == "invalid_api_key"


def test_each_secret_reads_its_own_expiry(live: Server, bob: User, issue: Issue) -> None:
    end = timezone.now() + timedelta(days=9)
    key, old = issue(bob, expires_at=end)
    new = rotate(key, GracePeriod.HOUR, actor=bob).text
    response = {
        text: datetime.fromisoformat(live.request("GET", KEY, key=text).json()["expires_at"])
        for text in (old, new)
    }
    ending = Secret.objects.get(expires_at__isnull=False).expires_at
    assert response == {old: ending, new: end}


def test_secret_that_lasts_until_the_new_one_is_used_says_so(
    live: Server, bob: User, issue: Issue
) -> None:
    key, old = issue(bob)
    new = rotate(key, GracePeriod.FIRST_USE, actor=bob).text
    response = {}
    for text in (old, new):
        response[text] = live.request("GET", KEY, key=text).json()["expires_when_new_used"]
    assert response == {old: True, new: False}


@pytest.mark.postgresql
def test_slow_query_delays_no_other_request(
    live: Server, bob: User, issue: Issue, model: ServedModel
) -> None:
    """And after some seconds the client gets an error."""
    _, text = issue(bob, limits=Limits(requests_per_day=5))
    _, another = issue(bob, "another")
    replies: list[int] = []

    def ask() -> None:
        replies.append(live.request("GET", KEY, key=text).status)

    asking = [threading.Thread(target=ask) for _ in range(4)]
    with database.cursor() as cursor:
        cursor.execute("BEGIN")
        # This table is read here, but not for the verdict on a key without limits.
        cursor.execute(f"LOCK TABLE {Window._meta.db_table} IN ACCESS EXCLUSIVE MODE")
        for thread in asking:
            thread.start()
        assert [live.chat(another, model.name).status for _ in range(20)] == [200] * 20
        for thread in asking:
            thread.join()
        cursor.execute("ROLLBACK")
    assert replies == [503] * 4
    assert json.loads(live.request("GET", KEY, key=another).body)["name"] == "another"

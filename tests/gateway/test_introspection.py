"""`GET /v1/key`: what a key may know of itself, and nobody else of it."""

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


def test_a_key_without_bounds(
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
        "lasts_until_used": False,
        "permissions": {"models": [], "endpoints": "all", "networks": []},
        "limits": [],
        "models": [model.name],
    }


def test_the_answer_is_kept_by_nobody_and_holds_no_secret(
    live: Server, bob: User, issue: Issue
) -> None:
    _, text = issue(bob)
    reply = live.request("GET", KEY, key=text)
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"]
    everything = repr(reply)
    assert text not in everything
    # Not even the part that the portal shows beside the public id.
    assert text[-4:] not in everything.replace(reply.headers["x-request-id"], "")
    assert text[14:] not in everything


def test_a_narrowed_and_limited_key(
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
    told: dict[str, object] = {}

    def have_tokens_counted() -> bool:
        told.update(live.request("GET", KEY, key=text).json())
        return bool(told["limits"][1]["used"])  # type: ignore[index]  # of JSON

    wait_until(have_tokens_counted)
    assert datetime.fromisoformat(str(told["expires_at"])) == end
    assert told["permissions"] == {
        "models": ["u-*/small"],
        "endpoints": "chat",
        "networks": ["127.0.0.0/8"],
    }
    assert told["models"] == [small]
    now = timezone.now()
    tomorrow = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    requests, tokens, parallel, roof = told["limits"]  # type: ignore[misc]  # a list, of JSON
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
    assert (roof["of"], roof["name"], roof["remaining"]) == ("team", "requests_per_month", 49)  # type: ignore[has-type]


def test_more_used_than_allowed_leaves_nothing(live: Server, bob: User, issue: Issue) -> None:
    key, text = issue(bob, limits=Limits(tokens_per_month=10))
    start = timezone.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    Window.objects.create(subject=f"key:{key.public_id}", kind=Kind.MONTH, start=start, tokens=25)
    (limit,) = live.request("GET", KEY, key=text).json()["limits"]
    assert (limit["used"], limit["remaining"]) == (25, 0)


def test_to_ask_is_no_call(live: Server, bob: User, issue: Issue, model: ServedModel) -> None:
    """It counts nowhere, is told in no list, and answers when all is used up."""
    key, text = issue(bob, limits=Limits(requests_per_day=1))
    assert live.chat(text, model.name).status == 200
    assert live.chat(text, model.name).status == 429
    for _ in range(3):
        reply = live.request("GET", KEY, key=text)
        assert reply.status == 200
        assert reply.json()["limits"][0]["used"] == 1
    wait_until(lambda: Call.objects.filter(public_id=key.public_id).exists())
    # The one that was refused got no further than the verdict, so it has no endpoint.
    mine = Call.objects.filter(public_id=key.public_id)
    assert set(mine.values_list("endpoint", "status")) <= {
        ("/chat/completions", 200),
        ("", 429),
    }


def test_a_read_only_key_may_ask(live: Server, bob: User, issue: Issue) -> None:
    _, text = issue(bob, permissions=Permissions(endpoints=Endpoints.READ))
    assert live.request("GET", KEY, key=text).json()["permissions"]["endpoints"] == "read"


def test_anthropics_clients_may_ask(live: Server, bob: User, issue: Issue) -> None:
    _, text = issue(bob)
    assert live.request("GET", KEY, headers={"x-api-key": text}).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_there_is_nothing_to_change(live: Server, bob: User, issue: Issue, method: str) -> None:
    _, text = issue(bob)
    reply = live.request(method, KEY, key=text, body={"name": "mine"})
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


def test_nobody_reads_what_is_beneath_or_beside(live: Server, bob: User, issue: Issue) -> None:
    other, _ = issue(bob, "other")
    _, text = issue(bob)
    for path in (f"{KEY}/{other.public_id}", f"{KEY}/", f"{KEY}s"):
        assert live.request("GET", path, key=text).status == 404
    told = live.request("GET", f"{KEY}?public_id={other.public_id}", key=text)
    assert told.json()["name"] == "test-key"


def test_the_same_admission_stands_in_front(live: Server, bob: User, issue: Issue) -> None:
    assert live.request("GET", KEY).status == 401
    key, text = issue(bob)
    change_key(key, Changes(permissions=Permissions(networks=("198.51.100.0/24",))), actor=bob)
    reply = live.request("GET", KEY, key=text)
    assert (reply.status, reply.code) == (403, "address_not_allowed")
    assert key.name.encode() not in reply.body
    disable(key, actor=bob)
    assert live.request("GET", KEY, key=text).code == "invalid_api_key"


def test_each_secret_is_told_when_it_ends_itself(live: Server, bob: User, issue: Issue) -> None:
    end = timezone.now() + timedelta(days=9)
    key, old = issue(bob, expires_at=end)
    new = rotate(key, GracePeriod.HOUR, actor=bob).text
    told = {
        text: datetime.fromisoformat(live.request("GET", KEY, key=text).json()["expires_at"])
        for text in (old, new)
    }
    ending = Secret.objects.get(expires_at__isnull=False).expires_at
    assert told == {old: ending, new: end}


def test_a_secret_that_ends_when_the_new_one_is_used_says_so(
    live: Server, bob: User, issue: Issue
) -> None:
    key, old = issue(bob)
    new = rotate(key, GracePeriod.FIRST_USE, actor=bob).text
    told = {}
    for text in (old, new):
        told[text] = live.request("GET", KEY, key=text).json()["lasts_until_used"]
    assert told == {old: True, new: False}


@pytest.mark.postgresql
def test_who_waits_for_an_answer_holds_up_no_other(
    live: Server, bob: User, issue: Issue, model: ServedModel
) -> None:
    """Nor for ever: after two seconds it is told that there is none."""
    _, text = issue(bob, limits=Limits(requests_per_day=5))
    _, another = issue(bob, "another")
    replies: list[int] = []

    def ask() -> None:
        replies.append(live.request("GET", KEY, key=text).status)

    asking = [threading.Thread(target=ask) for _ in range(4)]
    with database.cursor() as cursor:
        cursor.execute("BEGIN")
        # Read when a key is described, and by no verdict on a key without limits.
        cursor.execute(f"LOCK TABLE {Window._meta.db_table} IN ACCESS EXCLUSIVE MODE")
        for thread in asking:
            thread.start()
        assert [live.chat(another, model.name).status for _ in range(20)] == [200] * 20
        for thread in asking:
            thread.join()
        cursor.execute("ROLLBACK")
    assert replies == [503] * 4
    assert json.loads(live.request("GET", KEY, key=another).body)["name"] == "another"

"""API keys through the management API: create, read, list, change, rotate, disable, delete."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from tests.support.api_client import NewApiClient, assert_problem
from tests.support.cases import own_case


def is_live(text: str) -> bool:
    return Secret.objects.filter(digest=keystring.digest(text.encode())).exists()


def test_key_is_created_and_shown_once(new_api_client: NewApiClient, ada: User, team: Team) -> None:
    program = new_api_client(ada)
    end = datetime(2099, 1, 31, 12, tzinfo=UTC)
    response = program.post(
        "keys",
        {
            "name": "ci-build",
            "description": "Builds.\nAnd tests.",
            "tags": ["ci", "build"],
            "permissions": {
                "models": ["public/*"],
                "endpoints": "chat",
                "networks": ["10.0.0.0/8"],
            },
            "limits": {"tokens_per_day": 5000},
            "expires_at": end.isoformat(),
        },
    )
    assert response.status_code == 201
    created = response.json()
    assert is_live(created["key"])
    key = ApiKey.objects.get()
    assert (key.public_id, key.owner, key.team) == (created["id"], ada, team)
    assert (key.description, key.tags, key.expires_at) == (
        "Builds.\nAnd tests.",
        ["ci", "build"],
        end,
    )
    assert created["permissions"] == {
        "models": ["public/*"],
        "endpoints": "chat",
        "networks": ["10.0.0.0/8"],
    }
    assert created["limits"]["tokens_per_day"] == key.limits.tokens_per_day == 5000
    assert created["state"] == "active"
    assert created["masked"] == key.masked
    assert response["Cache-Control"] == "no-store"
    read = program.get(f"keys/{key.public_id}")
    assert "key" not in read.json()
    assert created["key"] not in read.content.decode()


@pytest.mark.any_database
def test_key_with_only_a_name_gets_what_the_policy_allows(
    new_api_client: NewApiClient, alice: User, team: Team
) -> None:
    team.policy = Policy(models=("public/*",), endpoints=("chat",))
    team.save(update_fields=["policy"])
    created = new_api_client(alice).post("keys", {"name": "plain"}).json()
    assert created["permissions"] == {"models": ["public/*"], "endpoints": "chat", "networks": []}


@pytest.mark.any_database
def test_actions_are_audited_with_owner_and_management_key(
    new_api_client: NewApiClient, ada: User
) -> None:
    program = new_api_client(ada)
    made = program.post("keys", {"name": "ci"}, User_Agent="x").json()
    address = f"keys/{made['id']}"
    program.patch(address, {"description": "new"})
    program.post(f"{address}/rotate", {"grace": "now"})
    program.post(f"{address}/disable")
    program.post(f"{address}/enable")
    program.delete(address)
    rows = AuditEvent.objects.for_key(made["id"]).order_by("pk")
    assert [row.action for row in rows] == [
        Action.KEY_CREATED,
        Action.KEY_CHANGED,
        Action.KEY_ROTATED,
        Action.KEY_DISABLED,
        Action.KEY_ENABLED,
        Action.KEY_DELETED,
    ]
    assert {(row.actor, row.via, row.address) for row in rows} == {
        ("ada", f"management key {program.key}", "127.0.0.1")
    }
    made_by_hand = AuditEvent.objects.get(action=Action.MANAGEMENT_KEY_CREATED)
    assert made_by_hand.via == ""


def test_taken_name_is_a_conflict(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada)
    assert program.post("keys", {"name": "ci"}).status_code == 201
    body = assert_problem(program.post("keys", {"name": "ci"}), 409, "name-taken")
    assert body["errors"] == [{"detail": "This name is taken.", "pointer": "/name"}]
    program.post("keys", {"name": "other"})
    other = ApiKey.objects.get(name="other")
    assert_problem(program.patch(f"keys/{other.public_id}", {"name": "ci"}), 409, "name-taken")


@pytest.mark.any_database
def test_repeated_create_says_how_to_continue(
    new_api_client: NewApiClient, ada: User, team: Team
) -> None:
    """The second request makes no second key, also where the first took the team's last place."""
    Team.objects.filter(pk=team.pk).update(max_keys=1)
    program = new_api_client(ada)
    lost = program.post("keys", {"name": "ci"}).json()
    again = program.post("keys", {"name": "ci"})
    body = assert_problem(again, 409, "name-taken")
    assert "GET /api/v1/keys?name=" in body["detail"]
    assert "rotate" in body["detail"]
    (key,) = program.get("keys?name=ci").json()["data"]
    assert key["id"] == lost["id"]
    rotated = program.post(f"keys/{key['id']}/rotate", {"grace": "now"})
    assert is_live(rotated.json()["key"])
    assert not is_live(lost["key"])


def test_key_limit_is_enforced_and_audited(
    new_api_client: NewApiClient, ada: User, team: Team
) -> None:
    Team.objects.filter(pk=team.pk).update(max_keys=0)
    problem = assert_problem(new_api_client(ada).post("keys", {"name": "ci"}), 409, "conflict")
    assert "0 of 0 API keys" in problem["detail"]
    assert AuditEvent.objects.get(action=Action.KEY_REFUSED_BY_LIMIT).via.startswith(
        "management key "
    )


@pytest.mark.any_database
def test_policy_error_has_a_sentence_for_each_rule(
    new_api_client: NewApiClient, alice: User, team: Team
) -> None:
    team.policy = Policy(must_expire=True, name_pattern="ci-*")
    team.save(update_fields=["policy"])
    problem = assert_problem(new_api_client(alice).post("keys", {"name": "nightly"}), 422, "policy")
    assert {error["detail"] for error in problem["errors"]} == {
        "Keys of this team must expire.",
        "Names of keys in this team must match ci-*.",
    }
    assert not ApiKey.objects.exists()


@pytest.mark.any_database
def test_invalid_field_is_an_error_with_pointer(new_api_client: NewApiClient, ada: User) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, ""),
        ({"name": ""}, "/name"),
        ({"name": " ci"}, "/name"),
        ({"name": "ci\x00"}, "/name"),
        ({"name": "c\u202ei"}, "/name"),
        ({"name": "x" * 65}, "/name"),
        ({"name": 3}, "/name"),
        ({"name": "sk-kp-7QmX2aPdk3Tz"}, "/name"),
        ({"name": "mk-kp-7QmX2aPdk3Tz"}, "/name"),
        ({"name": "ci", "description": "sk-kp-7QmX2aPdk3Tz"}, "/description"),
        ({"name": "ci", "description": "\x00"}, "/description"),
        ({"name": "ci", "description": "a\u202eb"}, "/description"),
        ({"name": "ci", "tags": ["a", "sk-kp-7QmX2aPdk3Tz"]}, "/tags/1"),
        ({"name": "ci", "tags": ["a b"]}, "/tags/0"),
        ({"name": "ci", "owner": "bob"}, "/owner"),
        ({"name": "ci", "team": "u-0000000000cc"}, "/team"),
        ({"name": "ci", "permissions": {"model": ["x"]}}, "/permissions/model"),
        ({"name": "ci", "permissions": {"endpoints": "everything"}}, "/permissions/endpoints"),
        ({"name": "ci", "permissions": {"models": ["****x*"]}}, "/permissions/models"),
        ({"name": "ci", "permissions": {"models": ["sk-kp-7QmX2aPdk3Tz"]}}, "/permissions/models"),
        ({"name": "ci", "permissions": {"networks": ["10.0.0.1/8"]}}, "/permissions/networks"),
        ({"name": "ci", "limits": {"tokens_per_day": 0}}, "/limits/tokens_per_day"),
        ({"name": "ci", "limits": {"tokens_per_day": True}}, "/limits/tokens_per_day"),
        ({"name": "ci", "expires_at": "2001-01-01T00:00:00Z"}, "/expires_at"),
        ({"name": "ci", "expires_at": "9999-12-31T23:59:59-12:00"}, "/expires_at"),
        ({"name": "ci", "expires_at": "2099-01-01T00:00:00"}, "/expires_at"),
        ({"name": "ci", "expires_at": "2001-01-01"}, "/expires_at"),
        ({"name": "ci", "expires_at": "2099-02-30"}, "/expires_at"),
        ({"name": "ci", "expires_at": "20990101"}, "/expires_at"),
        ({"name": "ci", "expires_at": "2099-01-01T00:00:00+25:00"}, "/expires_at"),
        ({"name": "ci", "expires_at": ""}, "/expires_at"),
        ({"name": "ci", "expires_at": 4070908800}, "/expires_at"),
    ]
    program = new_api_client(ada)
    for body, pointer in cases:
        with own_case(body, pointer):
            problem = assert_problem(program.post("keys", body), 422, "invalid")
            assert [error.get("pointer", "") for error in problem["errors"]] == [pointer]
            assert "k3Tz" not in str(problem)
            assert not ApiKey.objects.exists()


@pytest.mark.any_database
def test_expiry_is_a_time_or_the_end_of_a_day_in_utc(
    new_api_client: NewApiClient, ada: User
) -> None:
    cases: list[tuple[str, str]] = [
        ("2099-01-31", "2099-01-31T23:59:59+00:00"),
        ("2099-01-31T18:00:00Z", "2099-01-31T18:00:00+00:00"),
        ("2099-01-31t18:00:00.5z", "2099-01-31T18:00:00.500000+00:00"),
        ("2099-01-31T18:00:00+01:00", "2099-01-31T17:00:00+00:00"),
    ]
    program = new_api_client(ada, expires_at=None)
    for text, end in cases:
        with own_case(text, end):
            made = program.post("keys", {"name": "ci", "expires_at": text})
            assert made.status_code == 201, made.json()
            assert ApiKey.objects.get().expires_at == datetime.fromisoformat(end)
            changed = program.patch(f"keys/{made.json()['id']}", {"expires_at": text})
            assert changed.json()["expires_at"] == made.json()["expires_at"]


@pytest.mark.any_database
def test_texts_are_normalized_as_on_the_pages(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada)
    texts = {"description": "One \nTwo", "tags": ["ci", "Batch", "CI"]}
    made = program.post("keys", {"name": "ci", **texts}).json()
    assert (made["description"], made["tags"]) == ("One\nTwo", ["ci", "Batch"])
    changed = program.patch(f"keys/{made['id']}", {"description": "Two ", "tags": ["b", "B"]})
    assert (changed.json()["description"], changed.json()["tags"]) == ("Two", ["b"])


def test_keys_are_filtered_by_name_and_owner(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Any
) -> None:
    issue(bob, "his")
    issue(ada, "hers")
    program = new_api_client(ada)
    names = [key["name"] for key in program.get("keys").json()["data"]]
    assert names == ["hers", "his"]
    assert [key["name"] for key in program.get("keys?owner=bob").json()["data"]] == ["his"]
    assert [key["name"] for key in program.get("keys?name=hers").json()["data"]] == ["hers"]
    assert program.get("keys?name=nobody").json() == {"data": [], "next_cursor": None}


def test_keys_are_filtered_by_tag(new_api_client: NewApiClient, ada: User, issue: Any) -> None:
    issue(ada, "plain")
    issue(ada, "one", tags=["ci", "grün", "100%"])
    issue(ada, "two", tags=["ci-2", '"ci"', "CI"])
    program = new_api_client(ada)
    found = {
        tag: [key["name"] for key in program.get(f"keys?tag={quote(tag)}").json()["data"]]
        for tag in ("ci", "grün", "100%", "CI", '"ci"', "c", "%", "?")
    }
    assert found == {
        "ci": ["one"],
        "grün": ["one"],
        "100%": ["one"],
        "CI": ["two"],
        '"ci"': ["two"],
        "c": [],
        "%": [],
        "?": [],
    }
    assert_problem(program.get("keys?tag="), 422, "invalid")


def test_keys_are_filtered_by_state_and_combined_filters(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Any
) -> None:
    over, later = timezone.now() - timedelta(days=1), timezone.now() + timedelta(days=1)
    issue(ada, "works")
    issue(ada, "works until", expires_at=later)
    issue(ada, "over", expires_at=over)
    issue(bob, "left")
    issue(bob, "left and over", expires_at=over)
    off = [issue(ada, "off")[0], issue(bob, "off and left and over", expires_at=over)[0]]
    ApiKey.objects.filter(pk__in=[key.pk for key in off]).update(
        disabled_at=timezone.now(), disabled_by="owner"
    )
    bob.memberships.all().delete()
    ApiKey.objects.filter(name__in=["left", "left and over"]).update(
        disabled_at=None, disabled_by=""
    )
    program = new_api_client(ada)
    expected = {
        "active": ["works until", "works"],
        "expired": ["left and over", "over"],
        "ownerless": ["left"],
        "disabled": ["off and left and over", "off"],
    }
    for state, names in expected.items():
        found = program.get(f"keys?state={state}").json()["data"]
        assert [key["name"] for key in found] == names
        assert {key["state"] for key in found} == {state}
    (one,) = program.get("keys?state=expired&owner=bob").json()["data"]
    assert one["name"] == "left and over"
    assert_problem(program.get("keys?state=team+off"), 422, "invalid")


@pytest.mark.any_database
def test_key_of_an_inactive_owner_is_ownerless(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Any
) -> None:
    issue(bob, "his")
    User.objects.filter(pk=bob.pk).update(is_active=False)
    (one,) = new_api_client(ada).get("keys?state=ownerless").json()["data"]
    assert (one["name"], one["state"]) == ("his", "ownerless")


@pytest.mark.any_database
def test_query_count_does_not_depend_on_number_of_keys(
    new_api_client: NewApiClient, ada: User, issue: Any, django_assert_num_queries: Any
) -> None:
    program = new_api_client(ada)
    program.get("keys")
    for number in range(3):
        issue(ada, f"key-{number}")
    # The management key, its owner's membership, the count of its requests, keys, secrets, owners.
    with django_assert_num_queries(6):
        assert len(program.get("keys").json()["data"]) == 3


@pytest.mark.any_database
def test_change_leaves_other_fields_unchanged(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada)
    made = program.post(
        "keys",
        {
            "name": "ci",
            "tags": ["a"],
            "permissions": {"models": ["public/*"]},
            "limits": {"tokens_per_day": 5},
            "expires_at": "2099-01-01T00:00:00Z",
        },
    ).json()
    address = f"keys/{made['id']}"
    changed = program.patch(address, {"permissions": {"endpoints": "read"}}).json()
    assert changed["permissions"] == {"models": ["public/*"], "endpoints": "read", "networks": []}
    assert (changed["name"], changed["tags"], changed["expires_at"]) == (
        "ci",
        ["a"],
        "2099-01-01T00:00:00Z",
    )
    changed = program.patch(address, {"expires_at": None, "name": "ci-2"}).json()
    assert (changed["name"], changed["expires_at"]) == ("ci-2", None)
    changed = program.patch(
        address, {"limits": {"tokens_per_day": None, "requests_per_day": 7}}
    ).json()
    assert ApiKey.objects.get().limits == Limits(requests_per_day=7)
    assert changed["limits"]["requests_per_day"] == 7
    assert program.patch(address, {}).json() == changed


@pytest.mark.any_database
def test_rotation_returns_a_new_secret_and_the_expiry_of_the_old_one(
    new_api_client: NewApiClient, ada: User
) -> None:
    program = new_api_client(ada)
    made = program.post("keys", {"name": "ci"}).json()
    turned = program.post(f"keys/{made['id']}/rotate", {"grace": "1h"}).json()
    assert turned["id"] == made["id"]
    assert turned["key"] != made["key"]
    assert is_live(turned["key"])
    new, old = turned["secrets"]
    assert (new["last4"], old["last4"]) == (turned["key"][-4:], made["key"][-4:])
    assert new["expires_at"] is None
    assert datetime.fromisoformat(old["expires_at"]) < timezone.now() + timedelta(minutes=61)
    again = program.post(f"keys/{made['id']}/rotate", {"grace": "24h"})
    assert_problem(again, 409, "conflict")
    ended = program.post(f"keys/{made['id']}/end-old-secret").json()
    assert [each["last4"] for each in ended["secrets"]] == [turned["key"][-4:]]
    assert not is_live(made["key"])
    wrong = program.post(f"keys/{made['id']}/rotate", {"grace": "never"})
    assert assert_problem(wrong, 422, "invalid")["errors"][0]["pointer"] == "/grace"


@pytest.mark.any_database
def test_key_is_disabled_and_enabled(new_api_client: NewApiClient, ada: User, issue: Any) -> None:
    key, _ = issue(ada)
    program = new_api_client(ada)
    for _ in range(2):
        assert program.post(f"keys/{key.public_id}/disable").json()["state"] == "disabled"
    assert program.post(f"keys/{key.public_id}/enable").json()["state"] == "active"


@pytest.mark.any_database
def test_leaked_key_is_enabled_only_if_the_leak_is_accepted(
    new_api_client: NewApiClient, ada: User, issue: Any
) -> None:
    key, _ = issue(ada)
    program, path = new_api_client(ada), f"keys/{key.public_id}/enable"
    program.post(f"keys/{key.public_id}/disable")
    ApiKey.objects.update(reported_at=timezone.now())
    for body in (None, {}, {"accept_leak": False}):
        problem = assert_problem(program.post(path, body), 409, "conflict")
        assert "reported as leaked" in problem["detail"]
    assert_problem(program.post(path, {"accept_leak": "true"}), 422, "invalid")
    assert_problem(program.post(path, {"accept": True}), 422, "invalid")
    assert_problem(
        program.post(path, b"accept_leak", Content_Type="text/plain"), 415, "unsupported-media-type"
    )
    assert ApiKey.objects.get().disabled_at is not None
    assert program.post(path, {"accept_leak": True}).json()["state"] == "active"


@pytest.mark.any_database
def test_deleted_key_is_404(new_api_client: NewApiClient, ada: User, issue: Any) -> None:
    key, text = issue(ada)
    program = new_api_client(ada)
    response = program.delete(f"keys/{key.public_id}")
    assert (response.status_code, response.content) == (204, b"")
    assert "Content-Type" not in response
    assert not is_live(text)
    assert_problem(program.delete(f"keys/{key.public_id}"), 404, "not-found")
    assert_problem(program.get(f"keys/{key.public_id}"), 404, "not-found")


@pytest.mark.any_database
def test_key_of_a_former_member_is_ownerless(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Any
) -> None:
    key, _ = issue(bob)
    bob.memberships.all().delete()
    assert new_api_client(ada, "one").get(f"keys/{key.public_id}").json()["state"] == "disabled"
    ApiKey.objects.update(disabled_at=None, disabled_by="")
    assert new_api_client(ada).get(f"keys/{key.public_id}").json()["state"] == "ownerless"
    ApiKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert new_api_client(ada, "two").get(f"keys/{key.public_id}").json()["state"] == "expired"

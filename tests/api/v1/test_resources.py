"""The management key, the team, its members, models, usage and audit."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from keyportal.api.scopes import Scope
from keyportal.audit.models import Action, AuditEvent
from keyportal.catalog.aliases import Alias
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.teams.lifecycle.changes import change_slug
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.usage.models import UsageDay
from tests.support.api_client import NewApiClient, assert_problem
from tests.support.health import report, sight

pytestmark = pytest.mark.any_database


def test_management_key_describes_itself(
    new_api_client: NewApiClient, ada: User, team: Team
) -> None:
    program = new_api_client(ada, scopes=[Scope.KEYS_READ])
    body = program.get("self").json()
    assert (body["id"], body["name"], body["team"], body["owner"], body["role"]) == (
        program.key.public_id,
        "deploy",
        team.slug,
        "ada",
        "admin",
    )
    assert body["scopes"] == ["keys:read"]
    assert body["masked"] == program.key.masked
    assert body["permissions"] == {"models": [], "endpoints": "all", "networks": []}
    assert str(program.token) not in str(body)


def test_team_has_its_limits(
    new_api_client: NewApiClient, ada: User, team: Team, issue: Any
) -> None:
    team.limits, team.key_limits = Limits(requests_per_day=9), Limits(tokens_per_day=5)
    team.save(update_fields=["limits", "key_limits"])
    issue(ada)
    program = new_api_client(ada)
    body = program.get(f"teams/{team.slug}").json()
    assert (body["name"], body["key_count"], body["max_keys"]) == ("Acme", 1, 20)
    assert body["limits"]["requests_per_day"] == 9
    assert body["key_limits"]["tokens_per_day"] == 5
    assert program.get("teams").json() == {"data": [body], "next_cursor": None}


def test_team_is_found_by_its_former_slug(
    new_api_client: NewApiClient, ada: User, team: Team, other_team: Team
) -> None:
    program, former = new_api_client(ada), team.slug
    change_slug(team, "nova", actor=None)
    change_slug(other_team, "vega", actor=None)
    for slug in (former, "nova"):
        assert program.get(f"teams/{slug}").json()["slug"] == "nova"
    for slug in (other_team.slug, "vega", "nothing"):
        assert_problem(program.get(f"teams/{slug}"), 404, "not-found")


def test_members_are_listed(
    new_api_client: NewApiClient, ada: User, vera: User, issue: Any
) -> None:
    issue(ada)
    program = new_api_client(ada)
    members = {one["username"]: one for one in program.get("members").json()["data"]}
    assert (members["ada"]["role"], members["ada"]["key_count"]) == ("admin", 1)
    assert program.get("members/vera").json() == members["vera"]
    assert program.get("members/nobody").status_code == 404
    assert "@example.com" not in str(members)


def test_callable_models_are_listed(
    new_api_client: NewApiClient, ada: User, model: ServedModel, other_team: Team
) -> None:
    upstream = model.routes.get().upstream
    public = ServedModel.objects.create(name="public/small")
    theirs = ServedModel.objects.create(name=f"{other_team.slug}/x", team=other_team)
    for each in (public, theirs):
        Route.objects.create(model=each, upstream=upstream, upstream_model="x")
    ServedModel.objects.create(name="public/unrouted")
    models = new_api_client(ada).get("models").json()["data"]
    assert [(one["name"], one["is_public"]) for one in models] == [
        ("public/small", True),
        (model.name, False),
    ]


def test_model_says_what_programs_need_to_choose(
    new_api_client: NewApiClient, ada: User, team: Team, other_team: Team, model: ServedModel
) -> None:
    """The same as the Models page, and nothing of other teams."""
    program = new_api_client(ada)
    [plain] = program.get("models").json()["data"]
    assert plain == {
        "name": model.name,
        "aliases": [],
        "is_public": False,
        "is_for_some_teams": False,
        "description": "",
        "context_length": None,
        "takes_pictures": False,
        "takes_tools": False,
        "prices": "",
        "retires_on": None,
        "successor": None,
        "health": "Not called yet",
        "fails_since": None,
        "created_at": plain["created_at"],
    }
    report("one", {Upstream.objects.get(): sight(60, "502")})
    report("two", {})
    Alias.objects.create(name="gpt-4o", model=model)
    Alias.objects.create(name="theirs", model=model, team=other_team)
    newer = ServedModel.objects.create(name="public/newer")
    described: dict[str, Any] = {
        "description": "Good at code.",
        "context_length": 131_072,
        "takes_tools": True,
        "prices": "1 $",
        "retires_on": date(2027, 1, 31),
    }
    ServedModel.objects.filter(pk=model.pk).update(**described, successor=newer, team=None)
    model.only_teams.set([team, other_team])
    [told] = program.get("models").json()["data"]
    assert told == plain | described | {
        "aliases": ["gpt-4o"],
        "is_public": True,
        "is_for_some_teams": True,
        "retires_on": "2027-01-31",
        "successor": "public/newer",
        "health": "Fails on 1 of 2 workers",
        "fails_since": told["fails_since"],
    }
    assert told["fails_since"]


def used(team: Team, start: datetime, key: str = "0000000a", **more: Any) -> None:
    values = {
        "owner_id": 7,
        "requests": 3,
        "failures": 1,
        "prompt_tokens": 10,
        "latency_0": 3,
        **more,
    }
    UsageDay.objects.create(team_slug=team.slug, start=start, public_id=key, model="m", **values)


def test_usage_has_the_same_numbers_as_the_page(
    new_api_client: NewApiClient, ada: User, team: Team, other_team: Team
) -> None:
    today = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    parts: dict[str, Any] = {"cache_write_tokens": 4, "reasoning_tokens": 5, "images": 6}
    used(team, today, **parts)
    used(team, today - timedelta(days=1), "0000000b", requests=1)
    used(other_team, today, requests=1000)
    program = new_api_client(ada)
    usage = program.get("usage").json()
    assert (usage["step"], usage["group_by"], len(usage["steps"])) == ("day", "key", 14)
    assert usage["totals"]["requests"] == 4
    assert [step["totals"]["requests"] for step in usage["steps"][-2:]] == [1, 3]
    assert [(group["value"], group["totals"]["requests"]) for group in usage["groups"]] == [
        ("0000000a", 3),
        ("0000000b", 1),
    ]
    assert {name: usage["totals"][name] for name in parts} == parts
    assert usage["totals"]["median_ms"] > 0
    assert program.get("usage?key_id=0000000b").json()["totals"]["requests"] == 1
    assert program.get("usage?group_by=model").json()["groups"][0]["value"] == "m"
    assert program.get("usage?member=nobody").json()["totals"]["requests"] == 0
    start, end = today - timedelta(days=30), today
    period = f"start={start:%Y-%m-%dT%H:%M:%SZ}&end={end:%Y-%m-%dT%H:%M:%SZ}"
    usage = program.get(f"usage?{period}").json()
    assert usage["totals"]["requests"] == 1
    assert datetime.fromisoformat(usage["end"]) == today.astimezone(UTC)


def test_keys_and_usage_are_filtered_by_user_id_and_current_name(
    new_api_client: NewApiClient, ada: User, bob: User, team: Team, issue: Any
) -> None:
    """A new user of an old name inherits nothing."""
    key, _ = issue(bob)
    today = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    used(team, today, key.public_id, owner_id=bob.pk)
    used(team, today, "0000000b", owner_id=ada.pk)
    User.objects.filter(pk=bob.pk).update(username="robert")
    User.objects.create_user("bob", "heir@example.com")
    program = new_api_client(ada)
    assert program.get("members/robert").json()["id"] == bob.pk
    for who, there in ((f"_id={bob.pk}", True), ("=robert", True), ("=bob", False)):
        (*keys,) = program.get(f"keys?owner{who}").json()["data"]
        assert [(one["owner"], one["owner_id"]) for one in keys] == [("robert", bob.pk)] * there
        body = program.get(f"usage?member{who}").json()
        assert [group["value"] for group in body["groups"]] == [key.public_id] * there
    assert_problem(program.get(f"usage?member=robert&member_id={bob.pk}"), 422, "invalid")
    events = program.get("audit").json()["data"]
    assert (events[0]["actor_id"], events[0]["actor"]) == (None, "")


def test_audit_is_newest_first_and_can_be_filtered(
    new_api_client: NewApiClient, ada: User, issue: Any
) -> None:
    key, _ = issue(ada, actor=ada, address="192.0.2.1")
    key.revoke(actor=None)
    program = new_api_client(ada)
    events = program.get("audit").json()["data"]
    assert [event["action"] for event in events] == [
        Action.MANAGEMENT_KEY_CREATED,
        Action.KEY_DELETED,
        Action.KEY_CREATED,
    ]
    assert (events[2]["actor"], events[2]["address"], events[2]["via"]) == ("ada", "192.0.2.1", "")
    assert events[2]["key_id"] == key.public_id
    deleted = program.get("audit?action=key:deleted").json()["data"]
    assert [event["actor"] for event in deleted] == [""]
    assert len(program.get(f"audit?key_id={key.public_id}").json()["data"]) == 2
    assert len(events) == AuditEvent.objects.count()

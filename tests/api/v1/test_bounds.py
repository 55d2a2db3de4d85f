"""A management key can't give keys more than it may, or reach other teams."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from keyportal.api.scopes import Scope
from keyportal.audit.models import AuditEvent
from keyportal.keys.limits import set_key_limits
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from tests.support.api_client import NewApiClient, assert_problem
from tests.support.cases import own_case

pytestmark = pytest.mark.any_database

Issue = Callable[..., tuple[ApiKey, str]]
NARROW = Permissions(("public/*",), Endpoints.CHAT, ("10.0.0.0/8",))
WIDER = [
    {"models": []},
    {"models": ["*"]},
    {"models": ["public/*", "u-8105f7322477/test"]},
    {"models": ["pub*"]},
    {"endpoints": "all"},
    {"endpoints": "embeddings"},
    {"networks": []},
    {"networks": ["10.0.0.0/7"]},
    {"networks": ["10.0.0.0/8", "192.0.2.1/32"]},
    {"networks": ["::/0"]},
]
NARROWER = [
    {},
    {"models": ["public/small"]},
    {"endpoints": "read"},
    {"networks": ["10.1.0.0/16"]},
]


def test_restricted_management_key_creates_no_wider_key(
    new_api_client: NewApiClient, alice: User
) -> None:
    program = new_api_client(alice, permissions=NARROW)
    for permissions in WIDER:
        with own_case(permissions):
            body = {"name": "ci", "permissions": permissions}
            assert_problem(program.post("keys", body), 403, "beyond-bounds")
            assert not ApiKey.objects.exists()


def test_restricted_management_key_creates_keys_within_its_bounds(
    new_api_client: NewApiClient, alice: User
) -> None:
    program = new_api_client(alice, permissions=NARROW)
    for permissions in NARROWER:
        with own_case(permissions):
            response = program.post("keys", {"name": "ci", "permissions": permissions})
            assert response.status_code == 201
            assert NARROW.covers(ApiKey.objects.get().permissions)


def test_key_without_permissions_gets_those_of_the_management_key(
    new_api_client: NewApiClient, alice: User
) -> None:
    new_api_client(alice, permissions=NARROW).post("keys", {"name": "ci"})
    assert ApiKey.objects.get().permissions == NARROW


def test_key_without_permissions_gets_what_bounds_and_policy_allow(
    new_api_client: NewApiClient, alice: User
) -> None:
    cases: list[tuple[Permissions, Policy, tuple[tuple[str, ...], str, tuple[str, ...]]]] = [
        (Permissions(("public/*",)), Policy(endpoints=("chat",)), (("public/*",), "chat", ())),
        (
            Permissions(endpoints=Endpoints.EMBEDDINGS, networks=("10.0.0.0/8",)),
            Policy(models=("public/*",), endpoints=("chat", "embeddings")),
            (("public/*",), "embeddings", ("10.0.0.0/8",)),
        ),
        (
            Permissions(("public/*", "own/test"), Endpoints.CHAT),
            Policy(models=("own/*", "public/small", "public/tiny")),
            (("own/test", "public/small", "public/tiny"), "chat", ()),
        ),
        (Permissions(endpoints=Endpoints.READ), Policy(endpoints=("chat",)), ((), "read", ())),
        (Permissions(), Policy(models=("public/*",)), (("public/*",), "all", ())),
    ]
    for bounds, policy, given in cases:
        with own_case(bounds, policy, given):
            Team.objects.update(policy=policy)
            assert (
                new_api_client(alice, permissions=bounds).post("keys", {"name": "ci"}).status_code
                == 201
            )
            assert ApiKey.objects.get().permissions == given


def test_bounds_that_exclude_the_policy_give_a_policy_error(
    new_api_client: NewApiClient, alice: User
) -> None:
    Team.objects.update(policy=Policy(models=("own/*",), endpoints=("embeddings",)))
    problem = assert_problem(
        new_api_client(alice, permissions=NARROW).post("keys", {"name": "ci"}), 422, "policy"
    )
    assert "Keys of this team may only call: own/*." in problem["detail"]
    assert not ApiKey.objects.exists()


def test_change_cannot_widen_a_key_beyond_the_bounds(
    new_api_client: NewApiClient, alice: User, issue: Any
) -> None:
    program = new_api_client(alice, permissions=NARROW)
    for permissions in WIDER:
        with own_case(permissions):
            key, _ = issue(alice, permissions=NARROW)
            response = program.patch(f"keys/{key.public_id}", {"permissions": permissions})
            assert_problem(response, 403, "beyond-bounds")
            key.refresh_from_db()
            assert key.permissions == NARROW


def test_wider_key_cannot_be_rotated_enabled_or_changed(
    new_api_client: NewApiClient, alice: User, issue: Any
) -> None:
    """Its new secret would do all that the bounds forbid; so would a change that leaves them."""
    key, _ = issue(alice)
    program = new_api_client(alice, permissions=NARROW)
    address = f"keys/{key.public_id}"
    before = AuditEvent.objects.count()
    assert_problem(program.post(f"{address}/rotate", {"grace": "now"}), 403, "beyond-bounds")
    assert_problem(program.post(f"{address}/enable"), 403, "beyond-bounds")
    assert_problem(program.patch(address, {"name": "mine"}), 403, "beyond-bounds")
    assert AuditEvent.objects.count() == before
    narrowed = {
        "permissions": {"models": ["public/*"], "endpoints": "chat", "networks": ["10.0.0.0/8"]}
    }
    assert program.patch(address, narrowed).status_code == 200


def test_wider_key_can_be_disabled_and_deleted(
    new_api_client: NewApiClient, alice: User, issue: Any
) -> None:
    key, _ = issue(alice)
    program = new_api_client(alice, permissions=NARROW)
    assert program.post(f"keys/{key.public_id}/disable").status_code == 200
    assert program.delete(f"keys/{key.public_id}").status_code == 204


LATER: list[Any] = [None, "2099-01-01T00:00:00Z"]


@pytest.mark.parametrize("end", LATER)
def test_keys_cannot_be_set_to_outlive_the_management_key(
    new_api_client: NewApiClient, alice: User, issue: Issue, end: str | None
) -> None:
    """Whoever finds the management key of CI would have a way in for good otherwise."""
    ends = timezone.now() + timedelta(days=90)
    program = new_api_client(alice, expires_at=ends)
    key, _ = issue(alice, expires_at=ends - timedelta(days=9))
    for response in (
        program.post("keys", {"name": "ci", "expires_at": end}),
        program.patch(f"keys/{key.public_id}", {"name": "ci", "expires_at": end}),
    ):
        problem = assert_problem(response, 403, "beyond-bounds")
        assert problem["errors"][0]["pointer"] == "/expires_at"
        assert ends.isoformat() in problem["errors"][0]["detail"]
    assert (ApiKey.objects.get().name, ApiKey.objects.get().expires_at) == (
        "test-key",
        key.expires_at,
    )


def test_key_expires_with_the_management_key_or_earlier(
    new_api_client: NewApiClient, alice: User
) -> None:
    ends = timezone.now() + timedelta(days=90)
    earlier = ends - timedelta(days=9)
    program = new_api_client(alice, expires_at=ends)
    made = program.post("keys", {"name": "same"}).json()
    assert ApiKey.objects.get().expires_at == ends
    body = {"name": "earlier", "expires_at": earlier.isoformat()}
    assert program.post("keys", body).status_code == 201
    assert ApiKey.objects.get(name="earlier").expires_at == earlier
    address = f"keys/{made['id']}"
    for end in (earlier, ends):
        assert program.patch(address, {"expires_at": end.isoformat()}).status_code == 200
        assert ApiKey.objects.get(name="same").expires_at == end


@pytest.mark.parametrize("end", LATER)
def test_later_expiry_can_be_sent_again_unchanged(
    new_api_client: NewApiClient, alice: User, issue: Issue, end: str | None
) -> None:
    """A program that sends all that it has read changes nothing by that."""
    key, _ = issue(alice, expires_at=end and datetime.fromisoformat(end))
    program = new_api_client(alice, expires_at=timezone.now() + timedelta(days=90))
    response = program.patch(f"keys/{key.public_id}", {"name": "ci", "expires_at": end})
    assert (response.status_code, response.json()["name"]) == (200, "ci")


def test_management_key_without_expiry_creates_keys_without_expiry(
    new_api_client: NewApiClient, alice: User
) -> None:
    program = new_api_client(alice)
    for name, fields in (("plain", {}), ("never", {"expires_at": None})):
        assert program.post("keys", {"name": name, **fields}).json()["expires_at"] is None


def test_default_expiry_is_the_earlier_of_policy_and_management_key(
    new_api_client: NewApiClient, alice: User
) -> None:
    cases: list[tuple[int | None, int, int]] = [(365, 90, 90), (30, 90, 30), (None, 90, 90)]
    for key_days, policy_days, days in cases:
        with own_case(key_days, policy_days, days):
            Team.objects.update(policy=Policy(max_lifetime_days=policy_days))
            program = new_api_client(
                alice, expires_at=key_days and timezone.now() + timedelta(days=key_days)
            )
            assert program.post("keys", {"name": "plain"}).status_code == 201
            end = ApiKey.objects.get().expires_at
            assert end
            assert abs(end - timezone.now() - timedelta(days=days)) < timedelta(minutes=5)


def test_members_program_cannot_exceed_the_ceiling(
    new_api_client: NewApiClient, bob: User, team: Team
) -> None:
    team.key_limits = Limits(tokens_per_day=100)
    team.save(update_fields=["key_limits"])
    program = new_api_client(bob)
    for limits in ({"tokens_per_day": 101}, {"tokens_per_day": None}):
        problem = assert_problem(
            program.post("keys", {"name": "ci", "limits": limits}), 422, "invalid"
        )
        assert problem["errors"][0]["pointer"] == "/limits/tokens_per_day"
    assert not ApiKey.objects.exists()
    assert not AuditEvent.objects.filter(action__startswith="key:").exists()
    assert (
        program.post("keys", {"name": "ci", "limits": {"tokens_per_day": 99}}).json()["limits"][
            "tokens_per_day"
        ]
        == 99
    )
    address = f"keys/{ApiKey.objects.get().public_id}"
    changed = program.patch(address, {"name": "new", "limits": {"tokens_per_day": 101}})
    assert_problem(changed, 422, "invalid")
    assert ApiKey.objects.get().name == "ci"


def test_admins_program_can_set_any_limits(
    new_api_client: NewApiClient, ada: User, team: Team
) -> None:
    team.key_limits = Limits(tokens_per_day=100)
    team.save(update_fields=["key_limits"])
    response = new_api_client(ada).post("keys", {"name": "ci", "limits": {"tokens_per_day": None}})
    assert response.status_code == 201
    assert ApiKey.objects.get().limits == Limits()


UNLIMITED: dict[str, Any] = {"tokens_per_day": None}


def test_admins_program_needs_the_scope_to_raise_limits(
    new_api_client: NewApiClient, ada: User, team: Team, issue: Any
) -> None:
    """Whoever finds the management key of CI could spend without a limit otherwise."""
    team.key_limits = Limits(tokens_per_day=100)
    team.save(update_fields=["key_limits"])
    key, _ = issue(ada, "hers")
    program = new_api_client(ada, scopes=[Scope.KEYS_READ, Scope.KEYS_WRITE])
    made = program.post("keys", {"name": "ci", "limits": UNLIMITED})
    changed = program.patch(f"keys/{key.public_id}", {"limits": UNLIMITED})
    for response in (made, changed):
        assert "limits:raise" in assert_problem(response, 403, "missing-scope")["detail"]
    assert ApiKey.objects.get().limits == Limits(tokens_per_day=100)


def test_limits_lowered_by_an_admins_program_stay_lowered(
    new_api_client: NewApiClient, ada: User, bob: User, team: Team, issue: Issue
) -> None:
    """An admin manages the key then, so its owner can't undo it. The program itself goes up to what
    new keys get, which it could make as well."""
    Team.objects.update(key_limits=Limits(tokens_per_day=100))
    key, _ = issue(bob)
    address = f"keys/{key.public_id}"
    program, bobs = new_api_client(ada, scopes=[Scope.KEYS_WRITE]), new_api_client(bob, "bobs")
    assert program.patch(address, {"limits": {"tokens_per_day": 5}}).status_code == 200
    for limits in ({"tokens_per_day": 6}, UNLIMITED):
        assert_problem(bobs.patch(address, {"limits": limits}), 403, "weak-role")
    assert_problem(program.patch(address, {"limits": UNLIMITED}), 403, "missing-scope")
    key.refresh_from_db()
    assert (key.limits, key.is_managed) == (Limits(tokens_per_day=5), True)
    assert program.patch(address, {"limits": {"tokens_per_day": 100}}).status_code == 200


def test_unchanged_limits_do_not_make_a_key_managed(
    new_api_client: NewApiClient, ada: User, bob: User, team: Team, issue: Issue
) -> None:
    team.key_limits = Limits(tokens_per_day=100)
    team.save(update_fields=["key_limits"])
    key, _ = issue(bob)
    set_key_limits(key, Limits(tokens_per_day=7), actor=bob)
    program = new_api_client(ada, scopes=[Scope.KEYS_WRITE])
    response = program.patch(f"keys/{key.public_id}", {"limits": {"tokens_per_day": 7}})
    assert response.json()["limits"]["tokens_per_day"] == 7
    key.refresh_from_db()
    assert not key.is_managed


def test_key_above_the_ceiling_can_be_lowered_but_not_raised(
    new_api_client: NewApiClient, ada: User, bob: User, team: Team, issue: Issue
) -> None:
    key, _ = issue(bob)
    team.key_limits = Limits(tokens_per_day=100)
    team.save(update_fields=["key_limits"])
    program = new_api_client(ada, scopes=[Scope.KEYS_WRITE])
    for body in (
        {"name": "renamed", "limits": UNLIMITED},
        {"limits": {"requests_per_minute": 1}},
    ):
        assert program.patch(f"keys/{key.public_id}", body).status_code == 200
    key.refresh_from_db()
    assert (key.name, key.limits) == ("renamed", Limits(requests_per_minute=1))
    assert key.is_managed


def granted(key: ApiKey, ada: User, limits: Limits = Limits()) -> None:  # noqa: B008 - immutable
    """The team's new keys get a hundred tokens a day, and this one has what ada gives it."""
    Team.objects.filter(pk=key.team_id).update(key_limits=Limits(tokens_per_day=100))
    set_key_limits(key, limits, actor=ada)


ROTATED = {"grace": "7d"}


def test_key_with_raised_limits_cannot_be_rotated_or_taken_without_the_scope(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Issue
) -> None:
    """Rotated with a grace, nobody would miss the old secret; handed over, bob would rotate it."""
    program = new_api_client(ada, scopes=[Scope.KEYS_WRITE])
    for owner in (ada, bob):
        key, _ = issue(owner, f"of {owner}")
        granted(key, ada)
        address = f"keys/{key.public_id}"
        for response in (
            program.post(f"{address}/rotate", ROTATED),
            program.patch(address, {"name": "mine", "owner": "bob"}),
            program.patch(address, {"owner": "ada"}),
        ):
            assert "limits:raise" in assert_problem(response, 403, "missing-scope")["detail"]
        key.refresh_from_db()
        assert (key.owner, key.name, key.secrets.count()) == (owner, f"of {owner}", 1)


def test_key_above_a_lowered_ceiling_cannot_be_rotated_without_the_scope(
    new_api_client: NewApiClient, ada: User, bob: User, team: Team, issue: Issue
) -> None:
    key, _ = issue(bob)
    Team.objects.update(key_limits=Limits(tokens_per_day=100))
    program = new_api_client(ada, scopes=[Scope.KEYS_WRITE])
    assert_problem(program.post(f"keys/{key.public_id}/rotate", ROTATED), 403, "missing-scope")


def test_owner_or_scope_allows_rotation_of_a_key_with_raised_limits(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Issue
) -> None:
    """A member's program has its owner's keys alone; and a scope is there to be given."""
    key, _ = issue(bob)
    granted(key, ada)
    bobs = new_api_client(bob, scopes=[Scope.KEYS_WRITE])
    adas = new_api_client(ada, "adas", scopes=[Scope.KEYS_WRITE, Scope.LIMITS_RAISE])
    for program in (bobs, adas):
        response = program.post(f"keys/{key.public_id}/rotate", {"grace": "now"})
        assert response.json()["key"]
    assert adas.patch(f"keys/{key.public_id}", {"owner": "ada"}).status_code == 200


def test_key_within_the_default_limits_needs_no_scope(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    granted(key, ada, Limits(tokens_per_day=100, requests_per_day=1))
    program, address = new_api_client(ada, scopes=[Scope.KEYS_WRITE]), f"keys/{key.public_id}"
    assert program.post(f"{address}/rotate", {"grace": "now"}).json()["key"]
    assert program.patch(address, {"owner": "ada"}).json()["owner"] == "ada"


def test_scope_does_not_give_a_member_the_rights_of_an_admin(
    new_api_client: NewApiClient, bob: User, team: Team
) -> None:
    team.key_limits = Limits(tokens_per_day=100)
    team.save(update_fields=["key_limits"])
    program = new_api_client(bob, scopes=[Scope.KEYS_WRITE, Scope.LIMITS_RAISE])
    assert_problem(program.post("keys", {"name": "ci", "limits": UNLIMITED}), 422, "invalid")


def test_other_teams_ids_give_not_found(
    new_api_client: NewApiClient, ada: User, charlie: User, other_team: Team, issue: Any
) -> None:
    theirs, _ = issue(charlie, team=other_team)
    program = new_api_client(ada)
    for public_id in (theirs.public_id, "00000000"):
        address = f"keys/{public_id}"
        for response in (
            program.get(address),
            program.patch(address, {"name": "mine"}),
            program.delete(address),
            program.post(f"{address}/rotate", {"grace": "now"}),
            program.post(f"{address}/end-old-secret"),
            program.post(f"{address}/disable"),
            program.post(f"{address}/enable"),
        ):
            assert assert_problem(response, 404, "not-found")["detail"] == (
                "This does not exist, or it belongs to another team."
            )
    assert_problem(program.get(f"teams/{other_team.slug}"), 404, "not-found")
    assert_problem(program.get("members/charlie"), 404, "not-found")
    theirs.refresh_from_db()
    assert (theirs.name, theirs.disabled_at) == ("test-key", None)


def test_lists_contain_only_rows_of_the_team(
    new_api_client: NewApiClient, ada: User, charlie: User, other_team: Team, issue: Any
) -> None:
    theirs, _ = issue(charlie, team=other_team)
    program = new_api_client(ada)
    for path in (
        "self",
        "teams",
        "members",
        "keys",
        "models",
        "audit",
        "usage",
        f"audit?key_id={theirs.public_id}",
        f"usage?key_id={theirs.public_id}",
        "keys?owner=charlie",
    ):
        response = program.get(path)
        assert response.status_code == 200
        for text in (other_team.slug, theirs.name, "charlie", "Charlie"):
            assert text not in response.content.decode()


def test_read_and_write_scopes_are_separate(new_api_client: NewApiClient, ada: User) -> None:
    reader = new_api_client(ada, "reader", scopes=[Scope.KEYS_READ])
    writer = new_api_client(ada, "writer", scopes=[Scope.KEYS_WRITE])
    assert_problem(reader.post("keys", {"name": "ci"}), 403, "missing-scope")
    assert writer.post("keys", {"name": "ci"}).status_code == 201
    assert_problem(writer.get("keys"), 403, "missing-scope")

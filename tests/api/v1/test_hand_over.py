"""Handing over a key through the management API: to whom, by whom, all or nothing."""

from typing import Any

import pytest

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Permissions
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from tests.support.api_client import NewApiClient, assert_problem
from tests.support.cases import own_case

pytestmark = pytest.mark.any_database


def test_admins_program_hands_over_any_key_of_the_team(
    new_api_client: NewApiClient, ada: User, bob: User, alice: User, issue: Any
) -> None:
    key, _ = issue(bob)
    program = new_api_client(ada)
    changed = program.patch(f"keys/{key.public_id}", {"name": "nightly", "owner": "alice"}).json()
    assert (changed["name"], changed["owner"], changed["state"]) == ("nightly", "alice", "active")
    assert ApiKey.objects.get().owner == alice
    event = AuditEvent.objects.get(action=Action.KEY_HANDED_OVER)
    assert (event.actor, event.via) == ("ada", f"management key {program.key}")
    assert "Owner: bob → alice" in event.target


def test_members_program_hands_over_own_key_and_cannot_take_it_back(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Any
) -> None:
    key, _ = issue(bob)
    program, address = new_api_client(bob), f"keys/{key.public_id}"
    assert program.patch(address, {"owner": "ada"}).json()["owner"] == "ada"
    assert_problem(program.patch(address, {"owner": "bob"}), 403, "weak-role")
    assert ApiKey.objects.get().owner == ada


def test_members_program_cannot_take_keys_of_others(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Any
) -> None:
    key, _ = issue(ada)
    assert_problem(
        new_api_client(bob).patch(f"keys/{key.public_id}", {"owner": "bob"}), 403, "weak-role"
    )
    assert ApiKey.objects.get().owner == ada


def test_hand_over_to_an_invalid_owner_changes_nothing(
    new_api_client: NewApiClient, ada: User, bob: User, vera: User, charlie: User, issue: Any
) -> None:
    """The same for somebody of another team as for nobody: who has an account here is not told."""
    program = new_api_client(ada)
    for name in ("charlie", "vera", "bob", "nobody"):
        with own_case(name):
            User.objects.filter(pk=bob.pk).update(is_active=False)
            key, _ = issue(ada, "hers")
            response = program.patch(f"keys/{key.public_id}", {"name": "theirs", "owner": name})
            assert assert_problem(response, 422, "invalid")["errors"] == [
                {
                    "detail": f"{name} is not a member of this team who can own keys.",
                    "pointer": "/owner",
                }
            ]
            key.refresh_from_db()
            assert (key.name, key.owner) == ("hers", ada)
            assert not AuditEvent.objects.filter(action=Action.KEY_CHANGED).exists()


def test_invalid_owner_name_is_an_error_with_pointer(
    new_api_client: NewApiClient, ada: User, issue: Any
) -> None:
    program = new_api_client(ada)
    for name in ("", "a b", "bob\x00", 3, None):
        with own_case(name):
            key, _ = issue(ada)
            response = program.patch(f"keys/{key.public_id}", {"owner": name})
            assert assert_problem(response, 422, "invalid")["errors"][0]["pointer"] == "/owner"


def test_hand_over_cannot_exceed_the_policy(
    new_api_client: NewApiClient, ada: User, bob: User, team: Team, issue: Any
) -> None:
    issue(bob, "his")
    key, _ = issue(ada, "hers")
    Team.objects.filter(pk=team.pk).update(policy=Policy(max_keys_per_member=1))
    response = new_api_client(ada).patch(f"keys/{key.public_id}", {"owner": "bob"})
    assert "at most 1 keys" in assert_problem(response, 422, "policy")["detail"]
    key.refresh_from_db()
    assert key.owner == ada


def test_restricted_management_key_cannot_hand_over_a_wider_key(
    new_api_client: NewApiClient, alice: User, bob: User, issue: Any
) -> None:
    """Its new owner could rotate it in the portal, and call with it what the bounds forbid."""
    key, _ = issue(alice)
    program = new_api_client(alice, permissions=Permissions(("public/*",)))
    assert_problem(program.patch(f"keys/{key.public_id}", {"owner": "bob"}), 403, "beyond-bounds")
    key.refresh_from_db()
    assert key.owner == alice

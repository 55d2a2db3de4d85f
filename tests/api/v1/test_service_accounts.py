"""Service accounts through the management API."""

from typing import Any

import pytest

from keyportal.api.scopes import Scope
from keyportal.audit.models import AuditEvent
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from keyportal.teams.service_accounts import changes
from tests.support.api_client import NewApiClient, assert_problem

BODY = {"name": "ci", "contact": "ci@example.com"}
PATH = "service-accounts/ci"


def test_create_read_list_change_and_delete(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada)
    response = program.post("service-accounts", BODY)
    assert response.status_code == 201
    account = response.json()
    assert (account["name"], account["username"]) == ("ci", "ci@u-8105f7322477")
    assert (account["contact"], account["key_count"]) == ("ci@example.com", 0)
    assert program.get("service-accounts").json() == {"data": [account], "next_cursor": None}
    assert program.get(PATH).json() == account
    changed = program.patch(PATH, {"contact": "ops@example.com"}).json()
    assert changed == account | {"contact": "ops@example.com"}
    assert program.delete(PATH).status_code == 204
    assert_problem(program.get(PATH), 404, "not-found")
    vias = AuditEvent.objects.filter(target__startswith="Service account").values_list("via")
    assert {*vias} == {(f"management key {program.key}",)}


@pytest.mark.any_database
def test_key_for_it(new_api_client: NewApiClient, ada: User, team: Team) -> None:
    account = changes.create(team, "ci", "ci@example.com", actor=None)
    program = new_api_client(ada)
    key = program.post("keys", {"name": "nightly", "owner": account.username}).json()
    assert key["owner"] == account.username
    assert_problem(program.delete(PATH), 409, "conflict")
    assert program.patch(f"keys/{key['id']}", {"owner": "ada"}).json()["owner"] == "ada"
    assert program.delete(PATH).status_code == 204


@pytest.mark.any_database
def test_key_for_a_person_or_an_account_elsewhere(
    new_api_client: NewApiClient, ada: User, bob: User, other_team: Team
) -> None:
    elsewhere = changes.create(other_team, "ci", "ci@example.com", actor=None)
    program = new_api_client(ada)
    for owner in ("bob", elsewhere.username, "nobody"):
        problem = assert_problem(
            program.post("keys", {"name": "nightly", "owner": owner}), 422, "invalid"
        )
        assert problem["errors"][0]["pointer"] == "/owner"
    assert not ApiKey.objects.exists()


@pytest.mark.any_database
def test_members_program_may_only_read(new_api_client: NewApiClient, bob: User, team: Team) -> None:
    changes.create(team, "ci", "ci@example.com", actor=None)
    program = new_api_client(bob)
    assert program.get(PATH).status_code == 200
    assert_problem(program.post("service-accounts", BODY), 403, "weak-role")
    assert_problem(program.patch(PATH, {"contact": "b@example.com"}), 403, "weak-role")
    assert_problem(program.delete(PATH), 403, "weak-role")
    body = {"name": "nightly", "owner": "ci@u-8105f7322477"}
    assert_problem(program.post("keys", body), 403, "weak-role")
    assert User.objects.get(service_team=team).contact == "ci@example.com"


@pytest.mark.any_database
def test_its_scope_is_needed(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada, scopes=[Scope.MEMBERS_READ, Scope.KEYS_WRITE])
    assert_problem(program.post("service-accounts", BODY), 403, "missing-scope")


def test_mistakes(new_api_client: NewApiClient, ada: User, bob: User) -> None:
    program: Any = new_api_client(ada)
    assert_problem(program.post("service-accounts", BODY | {"name": "A b"}), 422, "invalid")
    bad = assert_problem(
        program.post("service-accounts", BODY | {"contact": "nobody"}), 422, "invalid"
    )
    assert bad["errors"][0]["pointer"] == "/contact"
    assert program.post("service-accounts", BODY).status_code == 201
    assert_problem(program.post("service-accounts", BODY), 409, "conflict")
    assert_problem(program.get("service-accounts/bob"), 404, "not-found")
    assert_problem(program.delete("service-accounts/bob"), 404, "not-found")

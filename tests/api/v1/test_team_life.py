"""A program renames its team, gives it another slug, switches it off and deletes it."""

import pytest

from keyportal.api.scopes import Scope
from keyportal.audit.models import Action, AuditEvent
from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.support.api_client import NewApiClient, assert_problem
from tests.support.cases import own_case
from tests.support.commands import run

PATH = "teams/u-8105f7322477"
DELETE = f"{PATH}?confirm_name=Acme"


@pytest.mark.any_database
def test_admins_program_renames_it(new_api_client: NewApiClient, ada: User, team: Team) -> None:
    program = new_api_client(ada)
    before = program.get(PATH).json()
    assert program.patch(PATH, {"name": "Nova"}).json() == before | {"name": "Nova"}
    event = AuditEvent.objects.for_team(team).get(action=Action.TEAM_CHANGED)
    assert (event.target, event.actor) == ("Team: Name: Acme → Nova", "ada")
    assert (event.via, event.address) == (f"management key {program.key}", "127.0.0.1")


@pytest.mark.any_database
def test_owners_program_changes_its_slug(
    new_api_client: NewApiClient, alice: User, team: Team, model: ServedModel
) -> None:
    program = new_api_client(alice)
    team_body = program.patch(PATH, {"slug": "nova"}).json()
    assert (team_body["slug"], team_body["name"]) == ("nova", "Acme")
    assert program.get("models").json()["data"][0]["name"].startswith("nova/")
    # The former slug works on for it, as for pages.
    assert program.patch(PATH, {"name": "Nova"}).json()["slug"] == "nova"
    event = AuditEvent.objects.for_team(team).filter(target__startswith="Team: Slug").get()
    assert event.via == f"management key {program.key}"


def test_both_are_changed_or_neither(
    new_api_client: NewApiClient, ada: User, alice: User, other_team: Team, team: Team
) -> None:
    body = {"name": "Nova", "slug": other_team.slug}
    problem = assert_problem(new_api_client(ada).patch(PATH, body), 403, "weak-role")
    assert "needs the role Owner" in problem["detail"]
    problem = assert_problem(new_api_client(alice, "of alice").patch(PATH, body), 422, "invalid")
    [error] = problem["errors"]
    assert error["pointer"] == "/slug"
    assert error["detail"] == "Another team has or had this slug. A slug is never used again."
    assert Team.objects.get(pk=team.pk).name == "Acme"
    assert not AuditEvent.objects.filter(action=Action.TEAM_CHANGED).exists()


@pytest.mark.any_database
def test_invalid_value_is_refused(new_api_client: NewApiClient, alice: User, team: Team) -> None:
    cases: list[tuple[str, object]] = [
        ("name", ""),
        ("name", " "),
        ("name", "x" * 101),
        ("name", "a\nb"),
        ("name", "sk-kp-7QmX2aPdk3Tz"),
        ("slug", ""),
        ("slug", "public"),
        ("slug", "-nova"),
        ("slug", "Nova"),
        ("max_keys", 1000),
    ]
    program = new_api_client(alice)
    for field, value in cases:
        with own_case(field, value):
            problem = assert_problem(program.patch(PATH, {field: value}), 422, "invalid")
            assert problem["errors"][0]["pointer"] == f"/{field}"
            assert (team.name, team.slug) == Team.objects.values_list("name", "slug").get()


@pytest.mark.any_database
def test_owners_program_switches_it_off_and_ends_with_that(
    new_api_client: NewApiClient, alice: User, team: Team
) -> None:
    program = new_api_client(alice)
    assert program.post(f"{PATH}/switch-off").status_code == 204
    assert_problem(program.get("self"), 401, "unauthorized")
    event = AuditEvent.objects.for_team(team).get(action=Action.TEAM_CHANGED)
    assert (event.target, event.actor) == ("Team: Is active: True → False", "alice")
    run("setteam", team.slug, "--active")
    assert program.get("self").status_code == 200


def test_owners_program_deletes_it_with_its_name(
    new_api_client: NewApiClient, alice: User, team: Team, model: ServedModel, issue: object
) -> None:
    issue(alice)  # type: ignore[operator]  # the fixture of all tests
    program = new_api_client(alice)
    for query, text in (
        ("", "missing required field `confirm_name`"),
        ("?confirm_name=acme", "This is not the name of the team."),
    ):
        problem = assert_problem(program.delete(f"{PATH}{query}"), 422, "invalid")
        assert text in problem["errors"][0]["detail"]
    assert ApiKey.objects.exists()
    assert program.delete(DELETE).status_code == 204
    assert not Team.objects.exists()
    assert not ApiKey.objects.exists()
    assert not ServedModel.objects.exists()
    assert_problem(program.get("self"), 401, "unauthorized")
    events = AuditEvent.objects.for_team(team)
    deleted = events.get(action=Action.TEAM_DELETED)
    assert (deleted.target, deleted.actor) == ("Acme", "alice")
    assert (
        deleted.via == events.get(action=Action.KEY_DELETED).via == f"management key {program.key}"
    )


@pytest.mark.any_database
def test_weaker_roles_end_nothing(new_api_client: NewApiClient, ada: User, team: Team) -> None:
    program = new_api_client(ada)
    assert_problem(program.post(f"{PATH}/switch-off"), 403, "weak-role")
    assert_problem(program.delete(DELETE), 403, "weak-role")
    assert Team.objects.get().is_active


@pytest.mark.any_database
def test_to_change_a_team_is_not_to_end_it(
    new_api_client: NewApiClient, alice: User, team: Team
) -> None:
    program = new_api_client(alice, scopes=[Scope.TEAMS_WRITE])
    assert_problem(program.delete(DELETE), 403, "missing-scope")
    assert_problem(program.post(f"{PATH}/switch-off"), 403, "missing-scope")
    assert_problem(program.get(PATH), 403, "missing-scope")


@pytest.mark.any_database
def test_another_team_is_not_found(
    new_api_client: NewApiClient, alice: User, other_team: Team
) -> None:
    program, path = new_api_client(alice), f"teams/{other_team.slug}"
    for response in (
        program.patch(path, {"name": "Mine"}),
        program.post(f"{path}/switch-off"),
        program.delete(f"{path}?confirm_name={other_team.name}"),
    ):
        assert_problem(response, 404, "not-found")
    other_team.refresh_from_db()
    assert (other_team.is_active, other_team.name != "Mine") == (True, True)

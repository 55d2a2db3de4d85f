"""Operators create teams, limit them, and switch them off and on."""

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from keyportal.audit.models import Action, AuditEvent
from keyportal.operators import access
from keyportal.operators.teams import change_team
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.cases import own_case
from tests.support.forms import form_data

pytestmark = pytest.mark.any_database

TEAMS = "/operators/teams/"


def events() -> list[tuple[str, str]]:
    rows = AuditEvent.objects.filter(action=Action.TEAM_CHANGED).order_by("pk")
    return [(event.actor, event.target) for event in rows]


def test_operator_creates_a_team_with_its_owner(operator: Client, charlie: User) -> None:
    form = form_data(operator.get(f"{TEAMS}create/"))
    form |= {"name": "Search", "slug": "search", "owner": "CHARLIE@example.com", "max_keys": "7"}
    assert operator.post(f"{TEAMS}create/", form | {"tokens_per_day": "500"}).status_code == 302
    team = Team.objects.get(slug="search")
    assert (team.name, team.max_keys, team.limits) == ("Search", 7, Limits(tokens_per_day=500))
    assert Membership.objects.get(team=team).role == Role.OWNER
    created = AuditEvent.objects.get(action=Action.TEAM_CREATED)
    assert (created.actor, created.target, created.team_slug) == ("olga", "Search", "search")


def test_team_without_slug_and_owner_gets_a_random_slug(operator: Client) -> None:
    form = form_data(operator.get(f"{TEAMS}create/"), name="Search")
    operator.post(f"{TEAMS}create/", form)
    assert Team.objects.get().slug.startswith("u-")
    assert not Membership.objects.exists()


def test_invalid_team_is_refused(operator: Client, team: Team) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({"name": ""}, "This field is required."),
        ({"name": "sk-kp-7QmX2aPdk3Tz"}, "contains an API key"),
        ({"slug": "u-8105f7322477"}, "Another team has or had this slug"),
        ({"slug": "public"}, "is reserved"),
        ({"owner": "nobody"}, "There is no active user"),
        ({"max_keys": "-1"}, "greater than or equal to 0"),
        ({"tokens_per_day": "0"}, "greater than or equal to 1"),
    ]
    for fields, message in cases:
        with own_case(fields, message):
            form = form_data(operator.get(f"{TEAMS}create/"), name="Search")
            response = operator.post(f"{TEAMS}create/", form | fields)
            assert response.status_code == 422
            assert message in response.content.decode()
            assert Team.objects.get() == team


def test_operator_limits_a_team(operator: Client, team: Team, alice: User) -> None:
    path = f"{TEAMS}{team.pk}/"
    page = operator.get(path)
    assert "alice" in page.content.decode()
    form = form_data(page, name="Acme 2", max_keys="3", requests_per_minute="60")
    assert operator.post(path, form).status_code == 302
    team.refresh_from_db()
    assert (team.name, team.max_keys, team.limits.requests_per_minute) == ("Acme 2", 3, 60)
    assert ("olga", "Limits of the team: Requests per minute: none → 60") in events()
    assert any("Max keys: 20 → 3" in target for _, target in events())


def test_form_that_is_out_of_date_is_refused(operator: Client, team: Team) -> None:
    path = f"{TEAMS}{team.pk}/"
    form = form_data(operator.get(path), name="Mine")
    Team.objects.update(max_keys=5)
    response = operator.post(path, form)
    assert response.status_code == 409
    assert "Changed since you opened this page: maximum keys." in response.content.decode()
    assert form_data(response)["max_keys"] == ["5"]
    assert Team.objects.get().name == "Acme"


def test_team_is_switched_off_and_on(operator: Client, team: Team, alice: User) -> None:
    path = f"{TEAMS}{team.pk}/"
    assert "0 API keys are refused" in operator.get(f"{path}off/").content.decode()
    assert operator.post(f"{path}off/").status_code == 302
    assert not Team.objects.get().is_active
    assert "Switch on" in operator.get(path).content.decode()
    assert operator.get(f"{path}on/").status_code == 302
    assert not Team.objects.get().is_active
    operator.post(f"{path}on/")
    assert Team.objects.get().is_active
    assert events() == [
        ("olga", "Team: Is active: True → False"),
        ("olga", "Team: Is active: False → True"),
    ]


def test_list_is_searched_and_has_pages(operator: Client) -> None:
    for number in range(60):
        Team.objects.create(name=f"Team {number:02}", slug=f"slug-{number:02}")
    first = operator.get(TEAMS).content.decode()
    assert first.count('data-label="Slug"') == 50
    assert "1–50 of 60" in first
    assert operator.get(TEAMS, {"page": 2}).content.decode().count('data-label="Slug"') == 10
    for query in ("TEAM 59", "slug-59"):
        assert operator.get(TEAMS, {"q": query}).content.decode().count('data-label="Slug"') == 1
    assert "Nothing matches “&lt;x&gt;”." in operator.get(TEAMS, {"q": "<x>"}).content.decode()
    assert operator.get(TEAMS, {"q": "a\0b"}).status_code in {200, 400}


@pytest.mark.parametrize("count", [2, 9])
def test_lists_need_the_same_queries_at_any_length(
    operator: Client, count: int, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(count):
        Team.objects.create(name="x", slug=f"slug-{number:02}")
        User.objects.create(username=f"user-{number}")
    for path in (TEAMS, "/operators/people/"):
        operator.get(path)
        with django_assert_num_queries(5):
            operator.get(path)


def test_whoever_is_no_longer_an_operator_changes_no_team(olga: User, team: Team) -> None:
    User.objects.filter(pk=olga.pk).update(is_superuser=False)
    with pytest.raises(Exception, match="no longer have the permission"):
        change_team(team, {"name": "Stolen"}, actor=olga)
    assert Team.objects.get().name == "Acme"
    assert access.locked_operators is not None

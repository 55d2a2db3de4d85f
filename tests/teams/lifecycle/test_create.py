"""Creating a team in the portal."""

from collections.abc import Callable

import pytest
from django.test import Client
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.teams.lifecycle import changes
from keyportal.teams.models import Membership, Role, Team, UsedSlug, User
from tests.support.cases import own_case
from tests.support.commands import run

pytestmark = pytest.mark.any_database

CREATE = "/teams/create/"
KEYS = "/teams/u-8105f7322477/keys/"
SignIn = Callable[[User], Client]


@pytest.fixture
def anyone(settings: Settings) -> None:
    settings.TEAM_CREATION = "anyone"


@pytest.mark.usefixtures("anyone")
def test_anyone_creates_a_team_and_owns_it(sign_in: SignIn, vera: User) -> None:
    client = sign_in(vera)
    assert CREATE in client.get(KEYS).content.decode()
    response = client.post(CREATE, {"name": "Nova", "slug": "nova"}, follow=True)
    assert response.redirect_chain == [("/teams/nova/settings/", 302)]
    assert "Nova is created." in response.content.decode()
    team = Team.objects.get(slug="nova")
    assert Membership.objects.get(team=team).user == vera
    assert Membership.objects.get(team=team).role == Role.OWNER
    event = AuditEvent.objects.for_team(team).get(action=Action.TEAM_CREATED)
    assert (event.target, event.actor, event.address) == ("Nova", "vera", "127.0.0.1")


@pytest.mark.usefixtures("anyone")
def test_slug_is_random_by_default(sign_in: SignIn, vera: User, team: Team) -> None:
    sign_in(vera).post(CREATE, {"name": "Nova", "slug": ""})
    assert Team.objects.get(name="Nova").slug.startswith("u-")


@pytest.mark.usefixtures("anyone")
def test_person_without_a_team_is_offered_one(client: Client, db: None) -> None:
    client.force_login(User.objects.create_user("newcomer"))
    page = client.get("/").content.decode()
    assert CREATE in page
    assert client.post(CREATE, {"name": "Nova"}).status_code == 302


def test_only_operators_by_default(sign_in: SignIn, alice: User) -> None:
    client = sign_in(alice)
    assert CREATE not in client.get(KEYS).content.decode()
    for response in (client.get(CREATE), client.post(CREATE, {"name": "Nova"})):
        assert response.status_code == 403
        assert "Only operators create teams here." in response.content.decode()
    User.objects.filter(pk=alice.pk).update(is_superuser=True)
    assert CREATE in client.get(KEYS).content.decode()
    assert client.post(CREATE, {"name": "Nova"}).status_code == 302
    assert Team.objects.filter(name="Nova").exists()


@pytest.mark.usefixtures("anyone")
def test_slugs_that_no_team_gets(sign_in: SignIn, alice: User) -> None:
    cases: list[tuple[str, str]] = [
        ("Nova!", "valid"),
        ("public", "reserved"),
        ("-nova", "lower-case"),
        ("u-8105f7322477", "Another team has or had this slug."),
        ("gone", "Another team has or had this slug."),
        ("x" * 65, "at most 64"),
    ]
    client = sign_in(alice)
    for slug, error in cases:
        with own_case(slug, error):
            UsedSlug.objects.create(slug="gone")
            response = client.post(CREATE, {"name": "Nova", "slug": slug})
            assert response.status_code == 422
            assert error in str(response.context["form"].errors["slug"])
            assert Team.objects.count() == 1


@pytest.mark.usefixtures("anyone")
def test_one_person_does_not_own_teams_without_end(
    sign_in: SignIn, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MAX_OWNED", 2)
    client = sign_in(alice)
    assert client.post(CREATE, {"name": "second"}).status_code == 302
    response = client.post(CREATE, {"name": "third"})
    assert response.status_code == 403
    assert "You own 2 teams already." in response.content.decode()
    assert not Team.objects.filter(name="third").exists()


def test_command_is_in_the_audit_too(db: None) -> None:
    run("createteam", "Nova", "--slug", "nova")
    assert AuditEvent.objects.get(action=Action.TEAM_CREATED).team_slug == "nova"

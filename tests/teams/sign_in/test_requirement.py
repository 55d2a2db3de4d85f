"""A second factor that the installation or a team requires."""

from datetime import timedelta

import pytest
from allauth.mfa.models import Authenticator
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.policy import Policy
from keyportal.teams.sign_in import factors

pytestmark = [pytest.mark.any_database, pytest.mark.django_db]

KEYS = "/teams/u-8105f7322477/keys/"
SET_UP = "/profile/sign-in/"


def add_factor(user: User) -> None:
    Authenticator.objects.create(user=user, type=Authenticator.Type.TOTP, data={"secret": ""})


def told(user: User, *, days_ago: int) -> None:
    asked_at = timezone.now() - timedelta(days=days_ago)
    User.objects.filter(pk=user.pk).update(second_factor_asked_at=asked_at)


@pytest.fixture
def required(settings: Settings) -> None:
    settings.SECOND_FACTOR_DAYS = 7


def test_pages_lead_to_the_set_up_when_the_days_are_over(
    client: Client, bob: User, required: None
) -> None:
    client.force_login(bob)
    page = client.get(KEYS)
    assert page.status_code == 200
    assert "A second factor is required." in page.content.decode()
    told(bob, days_ago=6)
    assert client.get(KEYS).status_code == 200
    told(bob, days_ago=7)
    for path in (KEYS, "/", "/profile/", "/profile/sessions/"):
        for answer in (client.get(path), client.post(path)):
            assert (answer.status_code, answer["Location"]) == (302, SET_UP), path
    assert client.get(KEYS, headers={"HX-Request": "true"})["HX-Redirect"] == SET_UP
    for path in (SET_UP, f"{SET_UP}app/add/", f"{SET_UP}passkeys/add/", "/accounts/logout/"):
        assert client.get(path).status_code == 200, path
    add_factor(bob)
    page = client.get(KEYS)
    assert page.status_code == 200
    assert "A second factor is required." not in page.content.decode()


def test_recovery_codes_alone_are_no_factor(client: Client, bob: User, settings: Settings) -> None:
    settings.SECOND_FACTOR_DAYS = 0
    Authenticator.objects.create(user=bob, type=Authenticator.Type.RECOVERY_CODES, data={})
    client.force_login(bob)
    assert client.get(KEYS)["Location"] == SET_UP


def test_the_admin_needs_it_too(client: Client, settings: Settings) -> None:
    settings.SECOND_FACTOR_DAYS = 0
    client.force_login(User.objects.create_superuser("olga"))
    assert client.get("/admin/teams/user/")["Location"] == SET_UP


def test_the_days_do_not_begin_anew(client: Client, bob: User, required: None) -> None:
    told(bob, days_ago=8)
    for _ in range(2):
        client.force_login(bob)
        assert client.get(KEYS)["Location"] == SET_UP


def test_a_reset_gives_the_days_again(client: Client, bob: User, required: None) -> None:
    told(bob, days_ago=8)
    factors.reset(bob)
    client.force_login(bob)
    assert client.get(KEYS).status_code == 200


def test_a_policy_closes_the_pages_of_its_team_only(
    client: Client, bob: User, team: Team, other_team: Team
) -> None:
    Membership.objects.create(user=bob, team=other_team, role=Role.MEMBER)
    Team.objects.filter(pk=team.pk).update(policy=Policy(second_factor_days=0))
    client.force_login(bob)
    assert client.get(KEYS)["Location"] == SET_UP
    assert client.get(f"/teams/{other_team.slug}/keys/").status_code == 200
    add_factor(bob)
    assert client.get(KEYS).status_code == 200


def test_an_outsider_learns_nothing(client: Client, charlie: User, team: Team) -> None:
    Team.objects.filter(pk=team.pk).update(policy=Policy(second_factor_days=0))
    client.force_login(charlie)
    assert client.get(KEYS).status_code == 404


def test_programs_are_not_affected(
    client: Client, alice: User, team: Team, settings: Settings
) -> None:
    settings.SECOND_FACTOR_DAYS = 0
    Team.objects.filter(pk=team.pk).update(policy=Policy(second_factor_days=0))
    _, key_string = ManagementKey.objects.issue(
        team=team, owner=alice, name="ci", scopes=[Scope.KEYS_READ], actor=alice
    )
    headers = {"Authorization": f"Bearer {key_string.text}"}
    assert client.get("/api/v1/self", headers=headers).status_code == 200


def test_who_signed_in_at_a_provider_needs_none(
    client: Client, bob: User, settings: Settings
) -> None:
    settings.SECOND_FACTOR_DAYS = 0
    client.force_login(bob)
    session = client.session
    session["account_authentication_methods"] = [{"method": "socialaccount", "at": 1.0}]
    session["account_authentication_methods_user"] = str(bob.pk)
    session.save()
    assert client.get(KEYS).status_code == 200


def test_it_costs_no_query_where_it_is_not_required(
    client: Client, bob: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    client.force_login(bob)
    client.get("/profile/history/")
    with django_assert_num_queries(3):  # The session, the user, the events.
        client.get("/profile/history/")

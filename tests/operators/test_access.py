"""Who opens the operators' pages, and who may still act when the lock is taken."""

from collections.abc import Callable

import pytest
from django.test import Client
from django.utils.html import escape

from keyportal.operators.access import lock_operators
from keyportal.teams.access import Outsider
from keyportal.teams.models import Membership, Team, User

SignIn = Callable[[User], Client]


@pytest.mark.any_database
def test_operator_without_a_team_is_led_to_the_pages(operator: Client) -> None:
    assert 'href="/operators/"' in operator.get("/").content.decode()
    first = operator.get("/operators/", follow=True)
    assert first.status_code == 200
    assert 'aria-label="Pages"' in first.content.decode()


@pytest.mark.any_database
def test_the_way_back_is_to_the_team_that_was_opened_last(
    operator: Client, olga: User, team: Team, other_team: Team
) -> None:
    assert "Back to" not in operator.get("/operators/teams/").content.decode()
    for each in (team, other_team):
        Membership.objects.create(team=each, user=olga)
        operator.get(f"/teams/{each.slug}/keys/")
        link = (
            f'<a class="team clip" href="/teams/{each.slug}/keys/">Back to {escape(each.name)}</a>'
        )
        assert link in operator.get("/operators/teams/").content.decode()
    other_team.is_active = False
    other_team.save()
    assert "Back to Acme" in operator.get("/operators/teams/").content.decode()


@pytest.mark.any_database
def test_empty_list_of_keys_leads_operators_to_the_servers(
    sign_in: SignIn, alice: User, team: Team
) -> None:
    keys = f"/teams/{team.slug}/keys/"
    assert "/operators/servers/" not in sign_in(alice).get(keys).content.decode()
    User.objects.filter(pk=alice.pk).update(is_superuser=True)
    assert '<a href="/operators/servers/">' in sign_in(alice).get(keys).content.decode()


@pytest.mark.any_database
def test_only_operators_see_the_entry_in_the_menu(sign_in: SignIn, alice: User, team: Team) -> None:
    keys = f"/teams/{team.slug}/keys/"
    assert "/operators/" not in sign_in(alice).get(keys).content.decode()
    User.objects.filter(pk=alice.pk).update(is_superuser=True)
    assert 'href="/operators/"' in sign_in(alice).get(keys).content.decode()


@pytest.mark.any_database
@pytest.mark.parametrize(
    "flags", [{"is_staff": True}, {"is_superuser": True, "is_active": False}], ids=str
)
def test_staff_and_inactive_superusers_are_no_operators(
    sign_in: SignIn, alice: User, flags: dict[str, bool]
) -> None:
    client = sign_in(alice)
    User.objects.filter(pk=alice.pk).update(**flags)
    assert client.get("/operators/settings/").status_code in {302, 404}


@pytest.mark.any_database
def test_no_cache_keeps_a_page(operator: Client) -> None:
    assert "no-store" in operator.get("/operators/settings/")["Cache-Control"]


def test_whoever_is_no_longer_an_operator_gets_no_lock(olga: User, alice: User) -> None:
    with lock_operators(olga):
        pass
    User.objects.filter(pk=olga.pk).update(is_superuser=False)
    for user in (olga, alice):  # `olga` still has the flag in memory, as `request.user` would.
        with pytest.raises(Outsider), lock_operators(user):
            pass

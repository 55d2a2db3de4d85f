"""The members page."""

from collections.abc import Callable

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, Team, User

pytestmark = pytest.mark.any_database

MEMBERS = "/teams/u-8105f7322477/members/"
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def test_viewer_sees_names_roles_and_numbers_of_keys(
    sign_in: SignIn, vera: User, alice: User, bob: User, other_team: Team, issue: Issue
) -> None:
    Membership.objects.create(team=other_team, user=bob)
    issue(bob, "one")
    issue(bob, "two")
    issue(bob, "elsewhere", team=other_team)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    response = sign_in(vera).get(MEMBERS)
    assert response.status_code == 200
    rows = [
        (member.user.username, member.role, member.key_count)
        for member in response.context["members"]
    ]
    assert rows == [("alice", "owner", 0), ("bob", "member", 2), ("vera", "viewer", 0)]
    assert response.content.decode().count(">Deactivated</span>") == 1
    assert response.content.decode().count(">You</span>") == 1


def test_page_needs_no_htmx(sign_in: SignIn, vera: User) -> None:
    with_htmx = sign_in(vera).get(MEMBERS, headers={"HX-Request": "true"})
    assert with_htmx.content.lstrip().startswith(b"<!doctype html>")


@pytest.mark.parametrize("people", [3, 60])
def test_queries_stay_the_same_for_any_number_of_members(
    sign_in: SignIn,
    alice: User,
    team: Team,
    django_assert_num_queries: DjangoAssertNumQueries,
    people: int,
) -> None:
    users = User.objects.bulk_create(User(username=f"user{number}") for number in range(people))
    Membership.objects.bulk_create(
        Membership(team=team, user=user, role=Role.MEMBER) for user in users
    )
    client = sign_in(alice)
    client.get(MEMBERS)
    with django_assert_num_queries(6):
        client.get(MEMBERS)

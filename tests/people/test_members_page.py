"""The members page."""

from collections.abc import Callable

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from keyportal.keys.models import ApiKey
from keyportal.people.models import Invitation
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


def test_htmx_gets_the_lists_alone(sign_in: SignIn, vera: User) -> None:
    with_htmx = sign_in(vera).get(MEMBERS, headers={"HX-Request": "true"})
    assert with_htmx.content.lstrip().startswith(b'<div id="table"')


def test_page_tells_nobody_to_use_a_shell(sign_in: SignIn, vera: User, alice: User) -> None:
    for user in (vera, alice):
        page = sign_in(user).get(MEMBERS).content.decode()
        assert "manage.py" not in page


def test_each_role_sees_what_it_may_do(
    sign_in: SignIn, alice: User, ada: User, bob: User, team: Team
) -> None:
    invitations = [
        Invitation.objects.create(team=team, email="m@example.com", role=Role.MEMBER),
        Invitation.objects.create(team=team, email="o@example.com", role=Role.OWNER),
    ]
    people, seen = (alice, ada, bob), {}
    for member in people:
        page = sign_in(member).get(MEMBERS).content.decode()
        seen[member.username] = (
            "Invite</button>" in page,
            [user.username for user in people if f'id="remove-{user.pk}"' in page],
            [each.email for each in invitations if f'id="revoke-{each.pk}"' in page],
            "m@example.com" in page,
            page.count(">Leave</button>"),
        )
    assert seen == {
        "alice": (True, ["ada", "bob"], ["m@example.com", "o@example.com"], True, 1),
        "ada": (True, ["bob"], ["m@example.com"], True, 1),
        "bob": (False, [], [], False, 1),
    }


@pytest.mark.parametrize("people", [3, 12])
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
    with django_assert_num_queries(7):
        client.get(MEMBERS)

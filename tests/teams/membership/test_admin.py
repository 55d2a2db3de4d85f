"""Memberships in Django's admin: a team keeps an owner."""

from typing import Any

import pytest
from django.test import Client

from keyportal.teams.models import Membership, Role, Team, User
from tests.conftest import PASSWORD, make_person
from tests.support.cases import own_case
from tests.support.forms import form_data

pytestmark = pytest.mark.any_database
REFUSAL = "alice is the last owner of the team."


@pytest.fixture
def root(client: Client, db: None) -> Client:
    client.force_login(User.objects.create_superuser("root", "root@example.com", PASSWORD))
    return client


def owners(team: Team) -> list[str]:
    rows = Membership.objects.for_team(team).filter(role=Role.OWNER).order_by("user__username")
    return [*rows.values_list("user__username", flat=True)]


def membership_of(user: User) -> Membership:
    return Membership.objects.get(user=user)


def inline(page: Any, member: User, /, **changes: str) -> dict[str, Any]:
    """The form of the page, with changes of the row of this member."""
    data = form_data(page)
    pk = str(membership_of(member).pk)
    rows = [name for name, value in data.items() if name.endswith("-id") and value == [pk]]
    prefix = rows[0].removesuffix("-id")
    return data | {f"{prefix}-{name}": value for name, value in changes.items()}


def test_last_owner_is_not_demoted_on_any_page(root: Client, team: Team, alice: User) -> None:
    page = f"/admin/teams/membership/{membership_of(alice).pk}/change/"
    answers = [root.post(page, form_data(root.get(page), role="member"))]
    for page in (f"/admin/teams/team/{team.pk}/change/", f"/admin/teams/user/{alice.pk}/change/"):
        opened = root.get(page)
        answers += [
            root.post(page, inline(opened, alice, role="member")),
            root.post(page, inline(opened, alice, DELETE="on")),
        ]
    for answer in answers:
        assert answer.status_code == 200
        assert REFUSAL in answer.content.decode()
    assert owners(team) == ["alice"]


def test_last_owner_is_not_deleted(root: Client, team: Team, alice: User) -> None:
    for kind in ("membership", "user"):
        with own_case(kind):
            pk = alice.pk if kind == "user" else membership_of(alice).pk
            page = f"/admin/teams/{kind}/{pk}/delete/"
            assert REFUSAL in root.get(page).content.decode()
            root.post(page, {"post": "yes"})
            selected = {"action": "delete_selected", "_selected_action": [pk], "post": "yes"}
            root.post(f"/admin/teams/{kind}/", selected)
            assert owners(team) == ["alice"]


def test_several_owners_do_not_go_at_once(root: Client, team: Team, alice: User) -> None:
    olga = make_person("olga", team, Role.OWNER)
    page = f"/admin/teams/team/{team.pk}/change/"
    opened = root.get(page)
    data = inline(opened, alice, role="member") | {
        name: value
        for name, value in inline(opened, olga, role="admin").items()
        if value == "admin"
    }
    assert "is the last owner" in root.post(page, data).content.decode()
    pks = [membership_of(user).pk for user in (alice, olga)]
    selected = {"action": "delete_selected", "_selected_action": pks, "post": "yes"}
    root.post("/admin/teams/membership/", selected)
    assert owners(team) == ["alice", "olga"]


def test_one_of_two_owners_goes(root: Client, team: Team, alice: User) -> None:
    make_person("olga", team, Role.OWNER)
    page = f"/admin/teams/team/{team.pk}/change/"
    assert root.post(page, inline(root.get(page), alice, DELETE="on")).status_code == 302
    assert owners(team) == ["olga"]


def test_team_is_deleted_with_its_last_owner(root: Client, team: Team, alice: User) -> None:
    answer = root.post(f"/admin/teams/team/{team.pk}/delete/", {"post": "yes"})
    assert answer.status_code == 302
    assert not Team.objects.exists()


def test_membership_keeps_its_team_and_user(
    root: Client, team: Team, other_team: Team, alice: User, bob: User
) -> None:
    page = f"/admin/teams/membership/{membership_of(bob).pk}/change/"
    data = form_data(root.get(page), team=other_team.pk, user=alice.pk, role="admin")
    assert root.post(page, data).status_code == 302
    row = Membership.objects.get(user=bob)
    assert (row.team, row.role) == (team, Role.ADMIN)
    page = f"/admin/teams/team/{team.pk}/change/"
    data = inline(root.get(page), bob, user=str(alice.pk), role="viewer")
    root.post(page, data)
    assert Membership.objects.get(user=bob).role == Role.VIEWER

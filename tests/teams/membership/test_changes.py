"""Changes of roles and removals: who may, and the last owner."""

from collections.abc import Callable

import pytest
from django.core.exceptions import PermissionDenied

from keyportal.teams.access import Operator, Outsider
from keyportal.teams.membership.changes import LastOwner, change_role, remove
from keyportal.teams.models import Membership, Role, Team, User
from tests.conftest import make_person
from tests.support.cases import own_case
from tests.support.concurrency import run_concurrently

LAST = "alice is the last owner of the team. Make somebody else an owner first."


def roles(team: Team) -> dict[str, str]:
    rows = Membership.objects.for_team(team).values_list("user__username", "role")
    return dict(rows.order_by("user__username"))


@pytest.mark.any_database
def test_owners_make_owners_and_admins_up_to_admins(
    team: Team, alice: User, ada: User, bob: User, vera: User
) -> None:
    cases: list[tuple[str, str, Role, bool]] = [
        ("alice", "ada", Role.OWNER, True),
        ("alice", "bob", Role.VIEWER, True),
        ("ada", "bob", Role.ADMIN, True),
        ("ada", "bob", Role.OWNER, False),
        ("ada", "ada", Role.OWNER, False),
        ("ada", "ada", Role.VIEWER, True),
        ("ada", "alice", Role.MEMBER, False),
        ("bob", "vera", Role.MEMBER, False),
        ("bob", "bob", Role.VIEWER, False),
        ("vera", "vera", Role.OWNER, False),
    ]
    for actor, target, role, is_allowed in cases:
        with own_case(actor, target, role, is_allowed):
            make_person("otto", team, Role.OWNER)
            people = {user.username: user for user in (alice, ada, bob, vera)}
            before = roles(team)
            if is_allowed:
                change_role(team, people[target], role, actor=people[actor])
                assert roles(team) == before | {target: role}
            else:
                with pytest.raises(PermissionDenied):
                    change_role(team, people[target], role, actor=people[actor])
                assert roles(team) == before


@pytest.mark.any_database
def test_admins_remove_all_but_owners_and_anybody_leaves(
    team: Team, alice: User, ada: User, bob: User, vera: User
) -> None:
    cases: list[tuple[str, str, bool]] = [
        ("alice", "ada", True),
        ("ada", "bob", True),
        ("ada", "alice", False),
        ("ada", "ada", True),
        ("bob", "vera", False),
        ("bob", "bob", True),
        ("vera", "vera", True),
    ]
    for actor, target, is_allowed in cases:
        with own_case(actor, target, is_allowed):
            people = {user.username: user for user in (alice, ada, bob, vera)}
            if is_allowed:
                remove(team, people[target], actor=people[actor])
            else:
                with pytest.raises(PermissionDenied):
                    remove(team, people[target], actor=people[actor])
            assert (target not in roles(team)) == is_allowed


@pytest.mark.any_database
def test_last_owner_neither_goes_nor_is_demoted(team: Team, alice: User, bob: User) -> None:
    for actor in (alice, None):
        with pytest.raises(LastOwner, match=LAST):
            remove(team, alice, actor=actor)
        with pytest.raises(LastOwner, match=LAST):
            change_role(team, alice, Role.ADMIN, actor=actor)
    change_role(team, alice, Role.OWNER, actor=alice)
    assert roles(team) == {"alice": "owner", "bob": "member"}


@pytest.mark.any_database
def test_owner_who_is_deactivated_does_not_count_and_can_go(team: Team, alice: User) -> None:
    olga = make_person("olga", team, Role.OWNER)
    User.objects.filter(pk=olga.pk).update(is_active=False)
    with pytest.raises(LastOwner):
        remove(team, alice, actor=alice)
    remove(team, olga, actor=alice)
    assert roles(team) == {"alice": "owner"}


@pytest.mark.any_database
def test_outsider_changes_nobody_and_is_nobody(team: Team, alice: User, charlie: User) -> None:
    with pytest.raises(Outsider):
        change_role(team, alice, Role.VIEWER, actor=charlie)
    with pytest.raises(Outsider):
        remove(team, charlie, actor=alice)
    with pytest.raises(Outsider):
        remove(team, charlie, actor=charlie)


@pytest.mark.any_database
def test_operator_needs_the_permission(team: Team, alice: User, bob: User, charlie: User) -> None:
    with pytest.raises(PermissionDenied):
        remove(team, bob, actor=Operator(charlie, "teams.change_membership"))
    User.objects.filter(pk=charlie.pk).update(is_staff=True, is_superuser=True)
    remove(team, bob, actor=Operator(charlie, "teams.change_membership"))
    assert roles(team) == {"alice": "owner"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "second",
    [
        lambda team, user: remove(team, user, actor=user),
        lambda team, user: remove(team, user, actor=None),
        lambda team, user: change_role(team, user, Role.MEMBER, actor=user),
    ],
    ids=["leaves", "is removed", "is demoted"],
)
def test_of_two_owners_who_go_at_once_one_stays(
    team: Team, alice: User, second: Callable[[Team, User], object]
) -> None:
    olga = make_person("olga", team, Role.OWNER)
    results = run_concurrently(
        lambda: remove(team, alice, actor=alice),
        lambda: second(team, olga),
    )
    assert sum(isinstance(result, LastOwner) for result in results) == 1
    owners = Membership.objects.for_team(team).filter(role=Role.OWNER)
    assert owners.count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_two_owners_who_demote_each_other_one_stays(team: Team, alice: User) -> None:
    olga = make_person("olga", team, Role.OWNER)
    results = run_concurrently(
        lambda: change_role(team, olga, Role.MEMBER, actor=alice),
        lambda: change_role(team, alice, Role.MEMBER, actor=olga),
    )
    assert sum(isinstance(result, PermissionDenied) for result in results) == 1
    assert sorted(roles(team).values()) == ["member", "owner"]

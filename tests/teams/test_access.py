"""Authorization: an outsider gets 404, a weak role gets 403 with the reason."""

from collections.abc import Callable

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.test import RequestFactory

from keyportal.keys.models import ApiKey
from keyportal.teams.access import TeamRequest, may_change, require_change, team_view
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.navigation import navigation
from tests.support.cases import own_case

pytestmark = pytest.mark.any_database

Open = Callable[[Role, User], HttpResponse]
ROLES = list(Role)


def page(request: TeamRequest) -> HttpResponse:
    return HttpResponse(f"{request.team.slug} {request.membership.role}")


@pytest.fixture
def open_page(team: Team, rf: RequestFactory) -> Open:
    """Open a page of the team that needs the role `needed`, as `user`."""

    def open_page(needed: Role, user: User) -> HttpResponse:
        request = rf.get("/")
        request.user, request.session = user, SessionStore()
        return team_view(needed)(page)(request, slug=team.slug)

    return open_page


@pytest.fixture
def member(team: Team) -> Callable[[Role], User]:
    """A member with a role."""

    def member(role: Role) -> User:
        user = User.objects.create_user(f"the-{role}")
        Membership.objects.create(team=team, user=user, role=role)
        return user

    return member


def test_a_role_opens_pages_that_need_it_or_a_weaker_one(
    member: Callable[[Role], User], open_page: Open
) -> None:
    for role in ROLES:
        for needed in ROLES:
            with own_case(role, needed):
                user = member(role)
                if ROLES.index(role) >= ROLES.index(needed):
                    assert open_page(needed, user).content.decode().endswith(role)
                else:
                    with pytest.raises(
                        PermissionDenied, match=f"needs the role {needed.label}.*{role.label}"
                    ):
                        open_page(needed, user)


def test_an_outsider_gets_404(charlie: User, open_page: Open) -> None:
    with pytest.raises(Http404):
        open_page(Role.VIEWER, charlie)


def test_a_superuser_who_is_no_member_is_an_outsider(db: None, open_page: Open) -> None:
    with pytest.raises(Http404):
        open_page(Role.VIEWER, User.objects.create_superuser("root"))


def test_a_former_member_is_an_outsider(bob: User, open_page: Open) -> None:
    Membership.objects.filter(user=bob).delete()
    with pytest.raises(Http404):
        open_page(Role.VIEWER, bob)


def test_an_inactive_team_is_explained_to_its_members_only(
    team: Team, alice: User, charlie: User, open_page: Open
) -> None:
    Team.objects.filter(pk=team.pk).update(is_active=False)
    with pytest.raises(PermissionDenied, match="inactive"):
        open_page(Role.VIEWER, alice)
    with pytest.raises(Http404):
        open_page(Role.VIEWER, charlie)


def test_a_role_in_one_team_is_none_in_another(
    team: Team, other_team: Team, charlie: User, open_page: Open
) -> None:
    Membership.objects.create(team=team, user=charlie, role=Role.VIEWER)
    assert open_page(Role.VIEWER, charlie).status_code == 200
    with pytest.raises(PermissionDenied):
        open_page(Role.MEMBER, charlie)


def test_who_may_change_which_key(bob: User, member: Callable[[Role], User]) -> None:
    cases: list[tuple[Role, bool, bool]] = [
        (Role.VIEWER, False, False),
        (Role.MEMBER, True, False),
        (Role.ADMIN, True, True),
        (Role.OWNER, True, True),
    ]
    for role, own, anothers in cases:
        with own_case(role, own, anothers):
            user = member(role)
            membership = Membership.objects.get(user=user)
            for owner, allowed in ((user, own), (bob, anothers)):
                key = ApiKey(owner=owner)
                assert may_change(membership, key) is allowed
                if allowed:
                    require_change(membership, key)
                else:
                    with pytest.raises(PermissionDenied):
                        require_change(membership, key)


def test_navigation_has_only_the_users_active_teams(
    team: Team, other_team: Team, bob: User, rf: RequestFactory
) -> None:
    off = Team.objects.create(name="Off", is_active=False)
    Membership.objects.create(team=off, user=bob)
    request = rf.get("/")
    request.membership = Membership.objects.get(team=team, user=bob)  # type: ignore[attr-defined]
    assert list(navigation(request)["teams"]) == [team]  # type: ignore[call-overload]  # a queryset


def test_navigation_has_no_teams_on_a_page_without_team(bob: User, rf: RequestFactory) -> None:
    request = rf.get("/")
    request.user = bob
    assert not navigation(request).keys() & {"team", "teams", "nav_items", "membership"}

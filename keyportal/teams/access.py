"""Who may see or do what in the portal: the only place that decides it.

An outsider gets 404, because that a team exists is not theirs to know. A member whose role is
too weak gets 403 and the reason.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.cache import add_never_cache_headers
from django_htmx.middleware import HtmxDetails

from keyportal.teams.models import Membership, Role, Team, User

P = ParamSpec("P")
Rows = TypeVar("Rows", bound="QuerySet[Any]")
LAST_TEAM_SESSION_KEY = "last_team"  # In the session: the slug.


class TeamRequest(HttpRequest):
    """A request that `team_view` has let through."""

    user: User
    htmx: HtmxDetails
    membership: Membership
    team: Team


class HasOwner(Protocol):
    """What belongs to one member of a team, such as a key."""

    owner_id: int


def team_view(
    role: Role,
) -> Callable[
    [Callable[Concatenate[TeamRequest, P], HttpResponse]],
    Callable[..., HttpResponse],
]:
    """Open a page under `/teams/<slug>/` to members whose role is `role` or stronger.

    The view gets no slug but `request.team` and `request.membership`.
    """

    def decorate(
        view: Callable[Concatenate[TeamRequest, P], HttpResponse],
    ) -> Callable[..., HttpResponse]:
        @wraps(view)
        def guarded(
            request: HttpRequest, slug: str, *args: P.args, **kwargs: P.kwargs
        ) -> HttpResponse:
            membership = _membership(cast("User", request.user), slug)
            if not membership.team.is_active:
                raise PermissionDenied("This team is switched off. Ask an operator why.")
            opened = cast("TeamRequest", request)
            opened.membership, opened.team = membership, membership.team
            require_role(membership, role)
            _remember_team(opened)
            response = view(opened, *args, **kwargs)
            # What a team sees stays in no cache: not in a proxy's, and not behind the Back button
            # of a browser whose user has signed out.
            add_never_cache_headers(response)
            return response

        return guarded

    return decorate


def require_role(membership: Membership, role: Role) -> None:
    if not membership.is_at_least(role):
        raise PermissionDenied(
            f"This needs the role {role.label}; in this team you are {Role(membership.role).label}."
        )


def creator_role(team: Team) -> Role:
    """The weakest role that may make keys: what the policy says, and never a viewer."""
    return max(Role.MEMBER, Role(team.policy.creators), key=lambda role: role.rank)


def may_change(membership: Membership, owned: HasOwner) -> bool:
    """Members change and delete what is theirs, admins and owners anything in their team."""
    if membership.is_at_least(Role.ADMIN):
        return True
    return membership.is_at_least(Role.MEMBER) and owned.owner_id == membership.user_id


def changeable(rows: Rows, membership: Membership) -> Rows:
    """Of these keys, or other rows of a team and an owner, those that `may_change` allows."""
    theirs = rows.filter(team=membership.team)
    if membership.is_at_least(Role.ADMIN):
        return theirs
    is_member = membership.is_at_least(Role.MEMBER)
    return theirs.filter(owner=membership.user_id) if is_member else theirs.none()


def require_change(membership: Membership, owned: HasOwner) -> None:
    if not may_change(membership, owned):
        raise PermissionDenied(
            "You may change and delete your own keys; this one belongs to someone else."
        )


def _membership(user: User, slug: str) -> Membership:
    try:
        return Membership.objects.select_related("team", "user").get(team__slug=slug, user=user)
    except Membership.DoesNotExist:
        raise Http404 from None


def last_team(request: HttpRequest) -> Team | None:
    """The team that the user looked at last, else their first; None when they have none."""
    teams = Team.objects.for_user(cast("User", request.user)).filter(is_active=True)
    return (
        teams.filter(slug=request.session.get(LAST_TEAM_SESSION_KEY, "")).first() or teams.first()
    )


def load_last_membership(request: HttpRequest) -> None:
    """Frame an error page like the page that a member came from; a stranger's has no frame."""
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated or hasattr(request, "membership"):
        return
    if team := last_team(request):
        cast("TeamRequest", request).membership = _membership(user, team.slug)


def _remember_team(request: TeamRequest) -> None:
    if request.session.get(LAST_TEAM_SESSION_KEY) != request.team.slug:
        request.session[LAST_TEAM_SESSION_KEY] = request.team.slug

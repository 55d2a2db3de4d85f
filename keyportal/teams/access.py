"""Who may see or do what in the portal: the only place that decides it.

An outsider gets 404, because that a team exists is not theirs to know. A member whose role is
too weak gets 403 and the reason.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, cast

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django_htmx.middleware import HtmxDetails

from keyportal.teams.models import Membership, Role, Team, User

P = ParamSpec("P")


class TeamRequest(HttpRequest):
    """A request that `team_view` has let through."""

    user: User
    htmx: HtmxDetails
    membership: Membership
    team: Team


class Owned(Protocol):
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
            if not membership.is_at_least(role):
                raise PermissionDenied(
                    f"This needs the role {role.label}; "
                    f"in this team you are {Role(membership.role).label}."
                )
            opened = cast("TeamRequest", request)
            opened.membership, opened.team = membership, membership.team
            return view(opened, *args, **kwargs)

        return guarded

    return decorate


def may_delete(membership: Membership, owned: Owned) -> bool:
    """Members delete what is theirs, admins and owners delete anything in their team."""
    if membership.is_at_least(Role.ADMIN):
        return True
    return membership.is_at_least(Role.MEMBER) and owned.owner_id == membership.user_id


def require_delete(membership: Membership, owned: Owned) -> None:
    if not may_delete(membership, owned):
        raise PermissionDenied("You may delete your own keys; this one belongs to someone else.")


def _membership(user: User, slug: str) -> Membership:
    try:
        return Membership.objects.select_related("team").get(team__slug=slug, user=user)
    except Membership.DoesNotExist:
        raise Http404 from None


def frame(request: HttpRequest) -> dict[str, object]:
    """What the frame of every page shows: the team, the other teams, and the open doors."""
    user = request.user if hasattr(request, "user") else None
    if not isinstance(user, User):
        return {}
    membership = getattr(request, "membership", None)
    return {
        "membership": membership,
        "team": membership.team if membership else None,
        "teams": Team.objects.of(user).filter(is_active=True),
        "can_create": membership is not None and membership.is_at_least(Role.MEMBER),
        "can_audit": membership is not None and membership.is_at_least(Role.ADMIN),
    }

"""Authorization in the portal: this module alone decides who may see or do what.

An outsider gets 404, so that a stranger can't learn which teams exist. A member whose role is too
weak gets 403 and the reason.

Pages are judged twice: by `team_view`, for what they show, and under the lock on the team, for what
they change. `lock_team` is the only way to that lock.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar, cast

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.cache import add_never_cache_headers
from django_htmx.middleware import HtmxDetails

from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.sign_in.requirement import require_second_factor

P = ParamSpec("P")
Rows = TypeVar("Rows", bound="QuerySet[Any]")
LAST_TEAM_SESSION_KEY = "last_team"  # Its value is the slug.


class TeamRequest(HttpRequest):
    """A request of a member; `team_view` has checked the role."""

    user: User
    htmx: HtmxDetails
    membership: Membership
    team: Team


class HasOwner(Protocol):
    """Anything that belongs to one member of a team, such as a key."""

    owner_id: int


class Operator(NamedTuple):
    """An operator, also in Django's admin: they need a permission, and no role in the team."""

    user: User
    permission: str
    """Such as `keys.change_apikey`."""

    @property
    def pk(self) -> int:
        return self.user.pk

    def get_username(self) -> str:
        return self.user.get_username()


Actor = User | Operator | None
"""Who changes something: a member of the team, or an operator. None: a command, a job or the
gateway, which may change everything."""


class Outsider(Http404):
    """The actor is not a member of the team, or no longer."""


class InactiveTeam(PermissionDenied):
    def __init__(self) -> None:
        super().__init__("This team is inactive. Ask an operator why.")


def team_view(
    role: Role,
) -> Callable[
    [Callable[Concatenate[TeamRequest, P], HttpResponse]],
    Callable[..., HttpResponse],
]:
    """Decorate a view under `/teams/<slug>/` that needs `role` or a stronger one.

    The view gets `request.team` and `request.membership` instead of the slug. Raises `Http404` for
    an outsider, and `PermissionDenied` for a weaker role or an inactive team.
    """

    def decorate(
        view: Callable[Concatenate[TeamRequest, P], HttpResponse],
    ) -> Callable[..., HttpResponse]:
        @wraps(view)
        def guarded(
            request: HttpRequest, slug: str, *args: P.args, **kwargs: P.kwargs
        ) -> HttpResponse:
            user = cast("User", request.user)
            membership = _find_membership(user, slug)
            if membership is None:
                return _redirect_to_new_slug(request, user, slug)
            if not membership.team.is_active:
                raise InactiveTeam
            team_request = cast("TeamRequest", request)
            team_request.membership, team_request.team = membership, membership.team
            require_role(membership, role)
            refusal = require_second_factor(request, membership.team.policy.second_factor_days)
            if refusal is not None:
                return refusal
            _remember_team(team_request)
            try:
                response = view(team_request, *args, **kwargs)
            except Team.DoesNotExist:
                # An owner deleted it while the view waited for its lock.
                raise Outsider from None
            # No cache may keep a team's pages: neither a proxy's, nor the browser's, where the Back
            # button would show them after the user has signed out.
            add_never_cache_headers(response)
            return response

        return guarded

    return decorate


def require_role(membership: Membership, role: Role) -> None:
    """Raises `PermissionDenied` with the reason when the member's role is weaker than `role`."""
    if not membership.is_at_least(role):
        raise PermissionDenied(
            f"This needs the role {role.label}; in this team you are {Role(membership.role).label}."
        )


@contextmanager
def lock_team(team: Team, *, actor: Actor, role: Role) -> Iterator[Team]:
    """Yields the current row of the team, locked, in a transaction.

    Whatever changes the team's policy, limits, keys or management keys, or creates something that
    they restrict, takes this lock first. An actor who is a member needs `role` or a stronger one:
    raises `Outsider`, or `PermissionDenied` with the reason.

    Attack: somebody is demoted or removed while their request waits for this lock. Judged only
    before it, they would still get the new secret of another person's key.
    """
    with transaction.atomic():
        # FOR NO KEY UPDATE lets others write rows that refer to the team in the meantime.
        locked = Team.objects.select_for_update(no_key=True).get(pk=team.pk)
        if isinstance(actor, Operator):
            _require_operator(actor)
        elif actor is not None:
            if not locked.is_active:
                raise InactiveTeam
            require_role(lock_membership(locked, actor), role)
        yield locked


def lock_teams_of(memberships: QuerySet[Membership]) -> None:
    """Lock the teams of these memberships, before any of the members, as all other code does.

    The reverse would be a deadlock.
    """
    teams = Team.objects.filter(pk__in=memberships.values("team"))
    list(teams.order_by("pk").select_for_update(no_key=True))


def lock_membership(team: Team, user: User, *, may_be_inactive: bool = False) -> Membership:
    """The membership of an active user, locked: they are deactivated or removed after this
    transaction, or were before it. Raises `Outsider`.

    The caller has locked the team.
    """
    users = User.objects.select_for_update(no_key=True)
    memberships = Membership.objects.select_for_update(no_key=True)
    # In this order: the user's page in Django's admin also locks the user first.
    locked_user = users.filter(pk=user.pk).first()
    membership = memberships.filter(team=team, user=user).first()
    if locked_user is None or membership is None:
        raise Outsider
    if not (locked_user.is_active or may_be_inactive):
        raise Outsider
    membership.team, membership.user = team, locked_user
    return membership


def _require_operator(operator: Operator) -> None:
    """The permissions are read again, because those of `request.user` are from its beginning."""
    user = User.objects.filter(pk=operator.pk, is_active=True).first()
    is_operator = user is not None and (user.is_staff or user.is_superuser)
    if user is None or not is_operator or not user.has_perm(operator.permission):
        raise PermissionDenied("You no longer have the permission for this.")


def is_admin(actor: Actor, team: Team) -> bool:
    """Whether the actor is an admin of the team now, or an operator."""
    if not isinstance(actor, User):
        return True
    membership = Membership.objects.filter(team=team, user=actor).first()
    return membership is not None and membership.is_at_least(Role.ADMIN)


def grantable_roles(role: Role) -> list[Role]:
    """The roles that a member with `role` gives and takes: owners all, admins up to Admin."""
    return (
        [other for other in Role if other.rank <= role.rank] if role.rank >= Role.ADMIN.rank else []
    )


def require_grant(actor: Actor, team: Team, *roles: str) -> None:
    """Raises `PermissionDenied` with the reason unless the actor may give and take all the roles.

    The caller holds the lock on the team.
    """
    if not isinstance(actor, User):
        return
    membership = Membership.objects.get(team=team, user=actor)
    allowed = grantable_roles(Role(membership.role))
    if not allowed:
        require_role(membership, Role.ADMIN)
    if not {*roles} <= {*allowed}:
        raise PermissionDenied("Only an owner makes, changes and removes owners.")


def creator_role(team: Team) -> Role:
    """The lowest role that can create keys: set by the policy, and at least Member.

    Only admins create keys for service accounts.
    """
    lowest = Role.ADMIN if team.policy.service_accounts_only else Role.MEMBER
    return max(lowest, Role(team.policy.min_creator_role), key=lambda role: role.rank)


def may_change(membership: Membership, owned: HasOwner) -> bool:
    """Members change and delete their own keys; admins and owners those of the whole team."""
    if membership.is_at_least(Role.ADMIN):
        return True
    return membership.is_at_least(Role.MEMBER) and owned.owner_id == membership.user_id


def may_end(membership: Membership, owned: HasOwner) -> bool:
    """Owners disable and delete what is theirs, whatever their role; admins all of the team."""
    return owned.owner_id == membership.user_id or membership.is_at_least(Role.ADMIN)


def changeable(rows: Rows, membership: Membership) -> Rows:
    """Those of `rows` that `may_change` allows; the model needs the fields `team` and `owner`."""
    in_team = rows.filter(team=membership.team)
    if membership.is_at_least(Role.ADMIN):
        return in_team
    is_member = membership.is_at_least(Role.MEMBER)
    return in_team.filter(owner=membership.user_id) if is_member else in_team.none()


def require_change(membership: Membership, owned: HasOwner) -> None:
    """Raises `PermissionDenied` with the reason unless `may_change` allows it."""
    if not may_change(membership, owned):
        raise PermissionDenied(
            "You may change and delete only your own keys, but this key belongs to someone else."
        )


def require_end(membership: Membership, owned: HasOwner) -> None:
    """Raises `PermissionDenied` with the reason unless `may_end` allows it."""
    if not may_end(membership, owned):
        raise PermissionDenied(
            "You may disable and delete only your own keys, but this key belongs to someone else."
        )


def _find_membership(user: User, slug: str) -> Membership | None:
    memberships = Membership.objects.select_related("team", "user")
    return memberships.filter(team__slug=slug, user=user).first()


def _redirect_to_new_slug(request: HttpRequest, user: User, slug: str) -> HttpResponse:
    """From an address with a former slug of the team. Raises `Outsider`, also for a member of no
    such team, who does not learn that it exists.

    Status 307 repeats a form that was opened before. It is not permanent, because the team may get
    its former slug back.
    """
    team = Team.objects.find(slug)
    match = request.resolver_match
    if team is None or match is None or _find_membership(user, team.slug) is None:
        raise Outsider
    path = reverse(match.view_name, kwargs={**match.kwargs, "slug": team.slug})
    query = request.META.get("QUERY_STRING", "")
    url = f"{path}?{query}" if query else path
    return HttpResponseRedirect(url, preserve_request=True)


def last_team(request: HttpRequest) -> Team | None:
    """The active team that the user opened last, or else their first; None if there is none."""
    teams = Team.objects.for_user(cast("User", request.user)).filter(is_active=True)
    slug = request.session.get(LAST_TEAM_SESSION_KEY)
    return (slug and teams.filter(slug=slug).first()) or teams.first()


def load_last_membership(request: HttpRequest) -> None:
    """Give an error page the navigation of the user's last team.

    Does nothing for an anonymous user, or when the view has set the membership already.
    """
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated or hasattr(request, "membership"):
        return
    if team := last_team(request):
        cast("TeamRequest", request).membership = Membership.objects.select_related(
            "team", "user"
        ).get(team=team, user=user)


def _remember_team(request: TeamRequest) -> None:
    if request.session.get(LAST_TEAM_SESSION_KEY) != request.team.slug:
        request.session[LAST_TEAM_SESSION_KEY] = request.team.slug

"""The navigation of every page, and which entry is the current one."""

from dataclasses import dataclass

from django.http import HttpRequest

from keyportal.teams.access import creator_role
from keyportal.teams.models import Membership, Role, Team


@dataclass(frozen=True)
class NavItem:
    """A way from the frame to a page, shown to those who may open it."""

    label: str
    icon: str
    view_name: str
    role: Role = Role.VIEWER
    also: tuple[str, ...] = ()  # Pages that lie behind the same door.


TEAM_PAGES = (
    "keys:policy",
    "keys:templates",
    "keys:template_create",
    "keys:template_change",
    "keys:template_delete",
    "keys:team_limits",
)


NAV = (
    NavItem(
        "API Keys",
        "key",
        "keys:list",
        also=(
            "keys:create",
            "keys:bulk_delete",
            "keys:bulk_disable",
            "keys:key",
            "keys:delete",
            "keys:limits",
            "keys:receipt",
            "keys:permissions",
            "keys:edit",
            "keys:expiry",
            "keys:hand_over",
            "keys:disable",
            "keys:enable",
            "keys:rotate",
            "keys:end_old",
            "keys:replace",
        ),
    ),
    NavItem("Health", "health", "keys:health", Role.MEMBER),
    NavItem("Models", "models", "catalog:models"),
    NavItem("Usage", "usage", "usage:usage", also=("usage:calls", "usage:running")),
    NavItem("Members", "members", "teams:members", also=TEAM_PAGES),
    NavItem(
        "Management",
        "shield",
        "management_keys:list",
        Role.ADMIN,
        also=("management_keys:create", "management_keys:delete"),
    ),
    NavItem("Audit", "audit", "audit:list", Role.ADMIN),
    NavItem("Overview", "overview", "keys:overview"),
)


def navigation(request: HttpRequest) -> dict[str, object]:
    """What the frame of every page shows: the team, the other teams, and the open doors."""
    membership: Membership | None = getattr(request, "membership", None)
    if membership is None:
        return {}
    return {
        "membership": membership,
        "team": membership.team,
        "teams": Team.objects.for_user(membership.user).filter(is_active=True),
        "can_create": membership.is_at_least(creator_role(membership.team)),
        "is_member": membership.is_at_least(Role.MEMBER),
        "is_admin": membership.is_at_least(Role.ADMIN),
        "doors": [door for door in NAV if membership.is_at_least(door.role)],
        "here": request.resolver_match and request.resolver_match.view_name,
    }

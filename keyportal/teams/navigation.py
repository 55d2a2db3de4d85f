"""The navigation of every page, and which entry is the current one."""

from dataclasses import dataclass
from typing import cast

from django.conf import settings
from django.http import HttpRequest

import keyportal
from keyportal.teams.access import creator_role, last_team
from keyportal.teams.lifecycle.changes import may_create
from keyportal.teams.models import Membership, Role, Team, User


@dataclass(frozen=True)
class NavItem:
    """An entry of the navigation, shown to members with `role` or a stronger one."""

    label: str
    icon: str
    view_name: str
    role: Role = Role.VIEWER
    subpages: tuple[str, ...] = ()  # Names of the other views that this entry stands for.


NAV = (
    NavItem(
        "API Keys",
        "key",
        "keys:list",
        subpages=(
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
            "keys:manage",
            "keys:unmanage",
            "leaks:team",
        ),
    ),
    NavItem("Health", "health", "keys:health", Role.MEMBER),
    NavItem("Models", "models", "catalog:models"),
    NavItem(
        "Usage", "usage", "usage:usage", subpages=("usage:calls", "usage:call", "usage:running")
    ),
    NavItem(
        "Members",
        "members",
        "people:members",
        subpages=(
            "people:invite",
            "people:leave",
            "people:role",
            "people:remove",
            "people:resend",
            "people:revoke",
            "teams:service_accounts",
            "teams:service_account_create",
            "teams:service_account_change",
            "teams:service_account_delete",
        ),
    ),
    NavItem(
        "Settings",
        "settings",
        "teams:general",
        Role.MEMBER,
        subpages=(
            "team_servers:servers",
            "team_servers:server",
            "team_servers:server_add",
            "team_servers:server_edit",
            "team_servers:server_on",
            "team_servers:server_delete",
            "team_servers:server_test",
            "team_servers:server_discover",
            "team_servers:model_add",
            "teams:slug",
            "teams:off",
            "teams:delete",
            "keys:policy",
            "keys:templates",
            "keys:template_create",
            "keys:template_change",
            "keys:template_delete",
            "keys:team_limits",
        ),
    ),
    NavItem(
        "Management keys",
        "shield",
        "management_keys:list",
        Role.ADMIN,
        subpages=("management_keys:create", "management_keys:delete"),
    ),
    NavItem("Audit", "audit", "audit:list", Role.ADMIN),
    NavItem("Guide", "guide", "keys:guide"),
)


def navigation(request: HttpRequest) -> dict[str, object]:
    """Template context of every page: the team, the user's other teams, and the navigation; for
    operators the version and the way back to a team; whether there are passwords, and mail."""
    membership: Membership | None = getattr(request, "membership", None)
    context: dict[str, object] = {
        "version": keyportal.__version__,
        "password_sign_in": settings.PASSWORD_SIGN_IN,
        "is_mail_logged": "console" in settings.OUTBOX_EMAIL_BACKEND,
        # Templates call it. Public pages don't, because it loads the user.
        "can_create_team": lambda: may_create(cast("User", request.user)),
        "last_team": lambda: last_team(request),
    }
    if membership is None:
        return context
    match = request.resolver_match
    view_name = match.view_name if match else ""
    return context | {
        "membership": membership,
        "team": membership.team,
        "teams": Team.objects.for_user(membership.user).filter(is_active=True),
        "can_create": membership.is_at_least(creator_role(membership.team)),
        "is_member": membership.is_at_least(Role.MEMBER),
        "is_admin": membership.is_at_least(Role.ADMIN),
        "is_owner": membership.is_at_least(Role.OWNER),
        "nav_items": [item for item in NAV if membership.is_at_least(item.role)],
        "current_item": _current_item(view_name),
        "view_name": view_name,
        "has_team_servers": bool(settings.TEAM_SERVERS),
    }


def _current_item(view_name: str) -> NavItem | None:
    items = (item for item in NAV if view_name == item.view_name or view_name in item.subpages)
    return next(items, None)

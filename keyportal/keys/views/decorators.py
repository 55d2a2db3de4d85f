"""Decorators for views that change one key."""

from collections.abc import Callable
from functools import wraps

from django.core.exceptions import PermissionDenied
from django.http import HttpResponse

from keyportal.keys.exceptions import ManagedByAdmin
from keyportal.keys.models import ApiKey
from keyportal.keys.views.responses import key_gone
from keyportal.teams.access import (
    TeamRequest,
    may_change,
    require_change,
    require_end,
    team_view,
)
from keyportal.teams.models import Membership, Role

View = Callable[[TeamRequest, ApiKey], HttpResponse]


def key_view(view: View) -> Callable[..., HttpResponse]:
    """For the owner of the key and the team's admins. The view gets the key.

    If the key was deleted, also during the view, the response says so. If the view raises
    `ManagedByAdmin`, the response is 403 with the reason.
    """
    return _with_key(view, Role.MEMBER, require_change)


def key_end_view(view: View) -> Callable[..., HttpResponse]:
    """Like `key_view`, for what ends a key: also for an owner who is a viewer by now.

    They know best that their key was stolen, and need nobody to stop it.
    """
    return _with_key(view, Role.VIEWER, require_end)


def _with_key(
    view: View, role: Role, require_right: Callable[[Membership, ApiKey], None]
) -> Callable[..., HttpResponse]:
    @team_view(role)
    @wraps(view)
    def opened(request: TeamRequest, public_id: str) -> HttpResponse:
        keys = ApiKey.objects.for_team(request.team).for_display().select_related("team")
        try:
            key = keys.get(public_id=public_id)
            require_right(request.membership, key)
            return view(request, key)
        except ApiKey.DoesNotExist:
            return key_gone(request, public_id)
        except ManagedByAdmin as error:
            raise PermissionDenied(str(error)) from None

    return opened


def managed_key_view(
    view: View,
) -> Callable[..., HttpResponse]:
    """Like `key_view`, but if the key is managed, its owner gets 403 with the reason."""

    @wraps(view)
    def opened(request: TeamRequest, key: ApiKey) -> HttpResponse:
        if not may_manage(request.membership, key):
            raise ManagedByAdmin
        return view(request, key)

    return key_view(opened)


def may_manage(membership: Membership, key: ApiKey) -> bool:
    """Whether they may enable the key and change its permissions, limits, expiry and owner."""
    is_allowed = not key.is_managed or membership.is_at_least(Role.ADMIN)
    return is_allowed and may_change(membership, key)

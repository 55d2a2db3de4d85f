"""Opens the views of one key to those who may change it, and answers when they have."""

from collections.abc import Callable
from functools import wraps

from django.core.exceptions import PermissionDenied
from django.http import HttpResponse

from keyportal.keys.exceptions import ManagedByAdmin
from keyportal.keys.models import ApiKey
from keyportal.keys.views.responses import key_gone
from keyportal.teams.access import TeamRequest, may_change, require_change, team_view
from keyportal.teams.models import Membership, Role


def key_view(view: Callable[[TeamRequest, ApiKey], HttpResponse]) -> Callable[..., HttpResponse]:
    """For what changes a key: its owner and the team's admins come in, and the key is given.

    A key that is gone, also in the middle of the view, gets the answer for that; and 403 what an
    admin's word on the key forbids its owner.
    """

    @team_view(Role.MEMBER)
    @wraps(view)
    def opened(request: TeamRequest, public_id: str) -> HttpResponse:
        keys = ApiKey.objects.for_team(request.team).for_display().select_related("team")
        try:
            key = keys.get(public_id=public_id)
            require_change(request.membership, key)
            return view(request, key)
        except ApiKey.DoesNotExist:
            return key_gone(request, public_id)
        except ManagedByAdmin as refusal:
            raise PermissionDenied(str(refusal)) from None

    return opened


def managed_key_view(
    view: Callable[[TeamRequest, ApiKey], HttpResponse],
) -> Callable[..., HttpResponse]:
    """For what only admins change of a key that they manage. Its owner gets 403 and the reason."""

    @wraps(view)
    def opened(request: TeamRequest, key: ApiKey) -> HttpResponse:
        if not may_manage(request.membership, key):
            raise ManagedByAdmin
        return view(request, key)

    return key_view(opened)


def may_manage(membership: Membership, key: ApiKey) -> bool:
    """Change its permissions, limits, expiry and owner, and enable it."""
    is_free = not key.is_managed or membership.is_at_least(Role.ADMIN)
    return is_free and may_change(membership, key)

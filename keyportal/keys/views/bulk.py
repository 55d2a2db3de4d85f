"""Delete or disable several keys that were selected in the list, after a confirmation."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from django.contrib import messages
from django.core.exceptions import BadRequest
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods

from keyportal.keys import changes, keystring
from keyportal.keys.last_use import last_used_times
from keyportal.keys.models import ApiKey
from keyportal.teams.access import TeamRequest, require_change, team_view
from keyportal.teams.models import Membership, Role, User
from keyportal.teams.shortcuts import render_dialog
from keyportal.usage.impact import impact, requests_last_day

MAX_KEYS = 100  # Keys: more than a page of the list has, and few enough for one request.


class BulkAction(NamedTuple):
    name: str
    done: str
    warning: str
    run: Callable[[ApiKey, User, str | None], object]


def _delete(key: ApiKey, actor: User, address: str | None) -> None:
    key.revoke(actor=actor, address=address)


def _disable(key: ApiKey, actor: User, address: str | None) -> None:
    changes.disable(key, actor=actor, address=address)


REFUSAL_WARNING = (
    "Programs that use them will be refused from their next request on, on every server, and "
    "running calls will be ended."
)
DELETE = BulkAction("Delete", "deleted", f"{REFUSAL_WARNING} This cannot be undone.", _delete)
DISABLE = BulkAction(
    "Disable", "disabled", f"{REFUSAL_WARNING} They can be enabled again.", _disable
)


def selected_keys(membership: Membership, public_ids: Sequence[str]) -> list[ApiKey]:
    """The keys of the member's team with these public ids, by name. Unknown ids are left out.

    Raises `PermissionDenied` if the member may not change one of them; the list does not offer such
    keys. Raises `BadRequest` for too many keys.
    """
    if len(public_ids) > MAX_KEYS:
        raise BadRequest(f"At most {MAX_KEYS} keys at once.")
    # PostgreSQL fails on some texts that cannot be a public id.
    valid_ids = filter(keystring.is_public_id, public_ids)
    rows = ApiKey.objects.for_team(membership.team).filter(public_id__in=valid_ids)
    keys = [*rows.for_display().order_by("name")]
    for key in keys:
        require_change(membership, key)
    return keys


def run_action(
    action: BulkAction, keys: Sequence[ApiKey], *, actor: User, address: str | None
) -> int:
    """Return how many keys still existed. No request that starts after this is served with them."""
    count = 0
    for key in keys:
        with suppress(ApiKey.DoesNotExist):
            action.run(key, actor, address)
            count += 1
    return count


@require_http_methods(["GET", "POST"])
@team_view(Role.MEMBER)
def keys_delete(request: TeamRequest) -> HttpResponse:
    return _confirm_or_run(request, DELETE)


@require_http_methods(["GET", "POST"])
@team_view(Role.MEMBER)
def keys_disable(request: TeamRequest) -> HttpResponse:
    return _confirm_or_run(request, DISABLE)


def _confirm_or_run(request: TeamRequest, action: BulkAction) -> HttpResponse:
    data = request.POST if request.method == "POST" else request.GET
    public_ids = data.getlist("keys")
    keys = selected_keys(request.membership, public_ids)
    if request.method != "POST" or not keys:
        return _confirmation(request, action, keys, status=404 if public_ids and not keys else 200)
    count = run_action(action, keys, actor=request.user, address=request.META["REMOTE_ADDR"])
    message = f"{count} key{' is' if count == 1 else 's are'} {action.done}."
    if missing := len(set(public_ids)) - count:
        message += f" {missing} {'was' if missing == 1 else 'were'} already deleted."
    return _done(request, message)


def _confirmation(
    request: TeamRequest, action: BulkAction, keys: list[ApiKey], *, status: int
) -> HttpResponse:
    public_ids = [key.public_id for key in keys]
    calls = requests_last_day(request.team, public_ids)
    times = last_used_times(keys)
    rows = [(key, calls.get(key.public_id, 0), times.get(key.public_id)) for key in keys]
    context = {"action": action, "rows": rows, "impact": impact(request.team, public_ids)}
    return render_dialog(
        request, "keys/_bulk.html", context, title=f"{action.name} API keys", status=status
    )


def _done(request: TeamRequest, message: str) -> HttpResponse:
    if request.htmx:
        # In this order: the page announces the message after the dialog has closed.
        events = {"keys-changed": None, "dialog-close": None, "show-message": message}
        return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(events)})
    messages.success(request, message)
    return redirect("keys:list", request.team.slug)

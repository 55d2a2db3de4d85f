"""Several keys at once: what was chosen in the list is shown, and asked for once more."""

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

MAX_KEYS = 100  # Keys: more than a page of the list, and no more than a request should take on.


class BulkAction(NamedTuple):
    name: str
    done: str
    warning: str
    act: Callable[[ApiKey, User, str | None], object]


def _delete(key: ApiKey, actor: User, address: str | None) -> None:
    key.revoke(actor=actor, address=address)


def _disable(key: ApiKey, actor: User, address: str | None) -> None:
    changes.disable(key, actor=actor, address=address)


REFUSAL_WARNING = (
    "Programs that use them will be refused from their next request on, on every server."
)
DELETE = BulkAction("Delete", "deleted", f"{REFUSAL_WARNING} It is final.", _delete)
DISABLE = BulkAction(
    "Disable", "disabled", f"{REFUSAL_WARNING} They can be enabled again.", _disable
)


def selected_keys(membership: Membership, public_ids: Sequence[str]) -> list[ApiKey]:
    """Those of the member's team, by name; what is not there is left out.

    One that they may not change is refused with all: nobody who chose it from the list is one
    who may not. Raises `PermissionDenied`, or `BadRequest` for too many.
    """
    if len(public_ids) > MAX_KEYS:
        raise BadRequest(f"At most {MAX_KEYS} keys at once.")
    # What can't be one is not there either, and PostgreSQL fails over some of it.
    asked = filter(keystring.is_public_id, public_ids)
    found = ApiKey.objects.for_team(membership.team).filter(public_id__in=asked)
    keys = [*found.for_display().order_by("name")]
    for key in keys:
        require_change(membership, key)
    return keys


def run_action(
    deed: BulkAction, keys: Sequence[ApiKey], *, actor: User, address: str | None
) -> int:
    """How many there were still. No request that starts after this is served with them."""
    count = 0
    for key in keys:
        with suppress(ApiKey.DoesNotExist):
            deed.act(key, actor, address)
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


def _confirm_or_run(request: TeamRequest, deed: BulkAction) -> HttpResponse:
    sent = request.POST if request.method == "POST" else request.GET
    public_ids = sent.getlist("keys")
    keys = selected_keys(request.membership, public_ids)
    if request.method != "POST" or not keys:
        return _confirmation(request, deed, keys, status=404 if public_ids and not keys else 200)
    count = run_action(deed, keys, actor=request.user, address=request.META["REMOTE_ADDR"])
    told = f"{count} key{' is' if count == 1 else 's are'} {deed.done}."
    if missing := len(set(public_ids)) - count:
        told += f" {missing} {'was' if missing == 1 else 'were'} gone already."
    return _done(request, told)


def _confirmation(
    request: TeamRequest, deed: BulkAction, keys: list[ApiKey], *, status: int
) -> HttpResponse:
    public_ids = [key.public_id for key in keys]
    calls = requests_last_day(request.team, public_ids)
    used = last_used_times(keys)
    rows = [(key, calls.get(key.public_id, 0), used.get(key.public_id)) for key in keys]
    context = {"deed": deed, "rows": rows, "impact": impact(request.team, public_ids)}
    return render_dialog(
        request, "keys/_bulk.html", context, title=f"{deed.name} API keys", status=status
    )


def _done(request: TeamRequest, told: str) -> HttpResponse:
    if request.htmx:
        # In this order: what is told is for the page, once the dialog is closed.
        events = {"keys-changed": None, "dialog-close": None, "told": told}
        return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(events)})
    messages.success(request, told)
    return redirect("keys:list", request.team.slug)

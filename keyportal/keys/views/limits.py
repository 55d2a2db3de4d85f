"""Change the limits of a key (its owner and admins) and of new keys (admins)."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from keyportal.keys.limits import AboveCeiling, set_key_limits, set_new_key_limits
from keyportal.keys.models import ApiKey, lock_key
from keyportal.keys.views.decorators import managed_key_view
from keyportal.keys.views.responses import key_changed
from keyportal.teams.access import TeamRequest, lock_team, require_change, team_view
from keyportal.teams.forms import Conflict, LimitsForm
from keyportal.teams.limits import UNLIMITED
from keyportal.teams.models import Role
from keyportal.teams.shortcuts import render_dialog
from keyportal.usage.limit_status import LimitUse, limit_uses
from keyportal.usage.models import key_subject, team_subject


@require_http_methods(["GET", "POST"])
@managed_key_view
def key_limits(request: TeamRequest, key: ApiKey) -> HttpResponse:
    form = LimitsForm(request.POST if request.method == "POST" else None, limits=key.limits)
    if not form.is_valid():
        return _key_form(request, key, form)
    audit_fields = {"actor": request.user, "address": request.META["REMOTE_ADDR"]}
    try:
        with lock_key(key, actor=request.user, right=require_change) as row:
            form.require_current(row.limits)
            set_key_limits(row, form.limits, **audit_fields)
    except Conflict as conflict:
        return _key_form(request, row, LimitsForm(limits=row.limits, conflict=str(conflict)))
    except AboveCeiling as error:
        form.add_limit_errors(error.errors)
        return _key_form(request, key, form)
    return key_changed(request, key, f"The limits of {key.name} are changed.")


@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
def team_limits(request: TeamRequest) -> HttpResponse:
    team = request.team
    form = LimitsForm(request.POST if request.method == "POST" else None, limits=team.key_limits)
    if not form.is_valid():
        return _team_form(request, form)
    audit_fields = {"actor": request.user, "address": request.META["REMOTE_ADDR"]}
    try:
        with lock_team(team, actor=request.user, role=Role.ADMIN) as row:
            form.require_current(row.key_limits)
            set_new_key_limits(row, form.limits, **audit_fields)
    except Conflict as conflict:
        form = LimitsForm(limits=row.key_limits, conflict=str(conflict))
        return _team_form(request, form)
    messages.success(request, "The limits of new keys are changed.")
    return redirect("keys:team_limits", team.slug)


def _team_form(request: TeamRequest, form: LimitsForm) -> HttpResponse:
    context = {"form": form, "team_limits": _team_limits(request)}
    return render(request, "keys/team_limits.html", context, status=form.status)


def _key_form(request: TeamRequest, key: ApiKey, form: LimitsForm) -> HttpResponse:
    ceiling = UNLIMITED if request.membership.is_at_least(Role.ADMIN) else key.team.key_limits
    rows = [
        (form[use.name], use, getattr(ceiling, use.name))
        for use in limit_uses(key_subject(key.public_id), key.limits)
    ]
    return render_dialog(
        request,
        "keys/_limits.html",
        {"key": key, "form": form, "rows": rows, "team_limits": _team_limits(request)},
        title="Limits",
        status=form.status,
    )


def _team_limits(request: TeamRequest) -> list[LimitUse]:
    """The limits that are set for all keys of the team together, with their use."""
    if request.team.limits == UNLIMITED:
        return []
    uses = limit_uses(team_subject(request.team.history_slug), request.team.limits)
    return [use for use in uses if use.limit is not None]

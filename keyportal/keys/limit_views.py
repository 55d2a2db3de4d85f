"""How much may be used: of a key by those who may change it, of new keys by the team's admins."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from keyportal.activity.limits import Use, uses
from keyportal.activity.windows import key_subject, team_subject
from keyportal.keys.changes import locked
from keyportal.keys.limits import AboveCeiling, limit_key, limit_new_keys
from keyportal.keys.models import ApiKey
from keyportal.keys.opened import changed, key_view
from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.forms import LimitsForm
from keyportal.teams.limits import UNLIMITED
from keyportal.teams.models import Role
from keyportal.teams.pages import render_part
from keyportal.teams.rules import locked_rules


@require_http_methods(["GET", "POST"])
@key_view
def key_limits(request: TeamRequest, key: ApiKey) -> HttpResponse:
    form = LimitsForm(request.POST if request.method == "POST" else None, limits=key.limits)
    if not form.is_valid():
        return _key_form(request, key, form)
    try:
        with locked(key) as found:
            limits = form.applied_to(found.limits)
            limit_key(found, limits, by=request.membership, address=request.META["REMOTE_ADDR"])
    except AboveCeiling as refusal:
        form.refuse(refusal.complaints)
        return _key_form(request, key, form)
    return changed(request, key, f"The limits of {key.name} are changed.")


@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
def team_limits(request: TeamRequest) -> HttpResponse:
    team = request.team
    form = LimitsForm(request.POST if request.method == "POST" else None, limits=team.key_limits)
    if not form.is_valid():
        context = {"form": form, "roof": _roof(request)}
        status = 422 if form.is_bound else 200
        return render(request, "keys/team_limits.html", context, status=status)
    with locked_rules(team) as found:
        limits = form.applied_to(found.key_limits)
        limit_new_keys(found, limits, by=request.membership, address=request.META["REMOTE_ADDR"])
    messages.success(request, "The limits of new keys are changed.")
    return redirect("keys:team_limits", team.slug)


def _key_form(request: TeamRequest, key: ApiKey, form: LimitsForm) -> HttpResponse:
    ceiling = UNLIMITED if request.membership.is_at_least(Role.ADMIN) else key.ceiling
    rows = [
        (form[use.name], use, getattr(ceiling, use.name))
        for use in uses(key_subject(key.public_id), key.limits)
    ]
    return render_part(
        request,
        "keys/limits.html",
        "keys/_limits.html",
        {"key": key, "form": form, "rows": rows, "roof": _roof(request)},
        status=422 if form.is_bound else 200,
    )


def _roof(request: TeamRequest) -> list[Use]:
    """The limits over all keys of the team together; only those that there are."""
    if request.team.limits == UNLIMITED:
        return []
    found = uses(team_subject(request.team.slug), request.team.limits)
    return [use for use in found if use.limit is not None]

"""Teams: list, create, limit, switch off and on."""

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from keyportal.keys.models import ApiKey
from keyportal.operators.access import OperatorRequest, operator_view
from keyportal.operators.lists import count_of, searched
from keyportal.operators.team_forms import NewTeamForm, TeamForm
from keyportal.operators.teams import change_team, create_team
from keyportal.teams.forms import Conflict
from keyportal.teams.models import Membership, Team
from keyportal.teams.sign_in.reauthentication import recently_authenticated


@require_safe
@operator_view
def team_list(request: OperatorRequest) -> HttpResponse:
    teams = Team.objects.annotate(
        key_count=count_of(ApiKey, "team"), member_count=count_of(Membership, "team")
    )
    context = searched(request, teams.order_by("name", "slug"), "name", "slug")
    return render(request, "operators/teams.html", context)


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def team_create(request: OperatorRequest) -> HttpResponse:
    form = NewTeamForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        team = form.team
        try:
            create_team(team, form.cleaned_data["owner"], actor=request.user)
        except ValidationError as error:
            form.add_save_error(error)
        else:
            messages.success(request, f"The team {team.name} is created.")
            return redirect("operators:team", team.pk)
    return render(request, "operators/team_create.html", {"form": form}, status=form.status)


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated(to_read=False)
def team(request: OperatorRequest, team_id: int) -> HttpResponse:
    row = get_object_or_404(Team, pk=team_id)
    form = TeamForm(request.POST if request.method == "POST" else None, team=row)
    if form.is_valid():
        try:
            change_team(row, form.changes, actor=request.user, check=form.require_current)
        except Conflict as conflict:
            row.refresh_from_db()
            return _page(request, row, TeamForm(team=row, conflict=str(conflict)))
        except ValidationError as error:
            form.add_save_error(error)
        else:
            messages.success(request, f"The team {form.cleaned_data['name']} is changed.")
            return redirect("operators:team", team_id)
    return _page(request, row, form)


def _page(request: OperatorRequest, row: Team, form: TeamForm) -> HttpResponse:
    context = {
        "each": row,
        "form": form,
        "memberships": Membership.objects.for_team(row).for_display()[:200],
        "key_count": ApiKey.objects.for_team(row).count(),
    }
    return render(request, "operators/team.html", context, status=form.status)


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def team_off(request: OperatorRequest, team_id: int) -> HttpResponse:
    row = get_object_or_404(Team, pk=team_id)
    if request.method != "POST":
        context = {"each": row, "key_count": ApiKey.objects.for_team(row).count()}
        return render(request, "operators/team_off.html", context)
    return _switch(request, row, is_active=False)


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated(to_read=False)
def team_on(request: OperatorRequest, team_id: int) -> HttpResponse:
    row = get_object_or_404(Team, pk=team_id)
    if request.method != "POST":
        return redirect("operators:team", team_id)
    return _switch(request, row, is_active=True)


def _switch(request: OperatorRequest, row: Team, *, is_active: bool) -> HttpResponse:
    change_team(row, {"is_active": is_active}, actor=request.user)
    messages.success(request, f"The team {row.name} is switched {'on' if is_active else 'off'}.")
    return redirect("operators:team", row.pk)

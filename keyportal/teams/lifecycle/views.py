"""The General page of a team's settings: members read it, admins change the name."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from keyportal.teams.access import TeamRequest, require_role, team_view
from keyportal.teams.forms import Conflict
from keyportal.teams.lifecycle.changes import rename
from keyportal.teams.lifecycle.forms import NameForm
from keyportal.teams.models import Role


@require_http_methods(["GET", "POST"])
@team_view(Role.MEMBER)
def general(request: TeamRequest) -> HttpResponse:
    if request.method == "POST":
        require_role(request.membership, Role.ADMIN)
    form = NameForm(request.POST if request.method == "POST" else None, team=request.team)
    if not form.is_valid():
        return _page(request, form)
    try:
        rename(
            request.team,
            form.cleaned_data["name"],
            actor=request.user,
            address=request.META["REMOTE_ADDR"],
            check=form.require_current,
        )
    except Conflict as conflict:
        request.team.refresh_from_db(fields=["name"])
        return _page(request, NameForm(team=request.team, conflict=str(conflict)))
    messages.success(request, "The name is changed.")
    return redirect("teams:general", request.team.slug)


def _page(request: TeamRequest, form: NameForm) -> HttpResponse:
    return render(request, "teams/general.html", {"form": form}, status=form.status)

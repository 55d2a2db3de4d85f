"""The way in, the members, and what is shown when a form's protection refuses it."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from keyportal.teams.access import TeamRequest, last_team, team_view
from keyportal.teams.models import Membership, Role


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    team = last_team(request)
    if team is None:
        return render(request, "teams/none.html")
    return redirect("keys:list", team.slug)


@require_safe
@team_view(Role.VIEWER)
def members(request: TeamRequest) -> HttpResponse:
    found = Membership.objects.of(request.team).for_display()
    return render(request, "teams/members.html", {"members": found})


def csrf_failure(request: HttpRequest, **_: str) -> HttpResponse:
    """Mostly a page that stood open while somebody signed in anew. Django also tells a reason,
    which says something to developers only, and is in the log."""
    return render(request, "403_csrf.html", status=403)

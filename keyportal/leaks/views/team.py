"""The banner with the leaked keys of a team."""

from django.http import HttpResponse
from django.views.decorators.http import require_safe

from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.models import Role
from keyportal.teams.shortcuts import render_htmx


@require_safe
@team_view(Role.VIEWER)
def leak_banner(request: TeamRequest) -> HttpResponse:
    """The banner alone, so that a page can reload it after a change."""
    context = {"beside": request.GET.get("beside", "")}
    return render_htmx(request, "leaks/banner.html", "leaks/_banner.html", context)

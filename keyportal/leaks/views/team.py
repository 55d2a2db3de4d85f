"""The banner above every page of a team whose keys leaked."""

from django.http import HttpResponse
from django.views.decorators.http import require_safe

from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.models import Role
from keyportal.teams.shortcuts import render_htmx


@require_safe
@team_view(Role.VIEWER)
def leak_banner(request: TeamRequest) -> HttpResponse:
    """The banner by itself, for a page on which something changed; each page begins with it."""
    context = {"beside": request.GET.get("beside", "")}
    return render_htmx(request, "leaks/banner.html", "leaks/_banner.html", context)

"""Which keys want looking at: all of the team for its admins, their own for its members."""

from django.http import HttpResponse
from django.views.decorators.http import require_safe

from keyportal.keys.health import health
from keyportal.keys.models import ApiKey
from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.models import Role
from keyportal.teams.pages import render_part


@require_safe
@team_view(Role.MEMBER)
def key_health(request: TeamRequest) -> HttpResponse:
    keys = ApiKey.objects.changeable_by(request.membership)
    asked = request.GET.get("finding", "")
    found = health(request.team, keys, asked, request.GET.get("page"))
    context = {"health": found, "page": found.page, "asked": asked}
    return render_part(request, "keys/health.html", "keys/_health.html", context)

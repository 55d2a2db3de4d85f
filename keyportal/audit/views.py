"""The audit page."""

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from keyportal.audit.forms import AuditFilter
from keyportal.audit.models import AuditEvent
from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.models import Role

ROWS = 50


@require_safe
@team_view(Role.ADMIN)
def audit(request: TeamRequest) -> HttpResponse:
    form = AuditFilter(request.GET)
    events = AuditEvent.objects.of(request.team).doing(form.chosen)
    page = Paginator(events, ROWS).get_page(request.GET.get("page"))
    return render(request, "audit/list.html", {"form": form, "page": page})

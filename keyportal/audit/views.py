"""The audit page, for admins of a team."""

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from keyportal.audit.forms import AuditFilter
from keyportal.audit.models import AuditEvent
from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.models import Role

PAGE_SIZE = 50


@require_safe
@team_view(Role.ADMIN)
def audit(request: TeamRequest) -> HttpResponse:
    form = AuditFilter(request.GET)
    events = AuditEvent.objects.for_team(request.team).with_action(form.chosen_action)
    page = Paginator(events, PAGE_SIZE).get_page(request.GET.get("page"))
    return render(request, "audit/list.html", {"form": form, "page": page})

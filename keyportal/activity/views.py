"""What happened in a team, for those who answer for it, and what its keys used."""

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from keyportal.activity.charts import charts, drawn, duration
from keyportal.activity.export import as_csv
from keyportal.activity.forms import AuditFilter, UsageFilter
from keyportal.activity.models import AuditEvent
from keyportal.activity.report import TOLD, report
from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.models import Role
from keyportal.teams.pages import render_part

ROWS = 50


@require_safe
@team_view(Role.ADMIN)
def audit(request: TeamRequest) -> HttpResponse:
    form = AuditFilter(request.GET)
    events = AuditEvent.objects.of(request.team).doing(form.chosen)
    page = Paginator(events, ROWS).get_page(request.GET.get("page"))
    return render(request, "activity/audit.html", {"form": form, "page": page})


@require_safe
@team_view(Role.VIEWER)
def usage(request: TeamRequest) -> HttpResponse:
    form = UsageFilter(request.GET)
    found = report(request.team, form.period(), form.asked, form.chosen_by)
    context = {
        "form": form,
        "report": found,
        "charts": charts(found),
        "drawn": drawn(found),
        "median": duration(found.used.median),
    }
    return render_part(request, "activity/usage.html", "activity/_usage.html", context)


@require_safe
@team_view(Role.VIEWER)
def usage_csv(request: TeamRequest) -> HttpResponse:
    form = UsageFilter(request.GET)
    found = report(request.team, form.period(), form.asked, form.chosen_by, most=TOLD)
    response = HttpResponse(as_csv(found), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="usage-{request.team.slug}.csv"'
    return response

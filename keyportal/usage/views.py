"""Pages of a team's usage: sums, calls and running calls."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from keyportal.database.clock import database_now
from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.models import Role
from keyportal.teams.shortcuts import render_htmx
from keyportal.teams.sign_in.sessions import polled
from keyportal.usage.call_log import call_page, find_call
from keyportal.usage.forms import CallFilter, UsageFilter
from keyportal.usage.reports.charts import chart_data, charts, duration
from keyportal.usage.reports.csv_export import report_csv
from keyportal.usage.reports.periods import LAST_WEEK
from keyportal.usage.reports.report import MAX_TABLE_ROWS, menus, report
from keyportal.usage.running_calls import request_call_end, running_calls


@require_safe
@team_view(Role.VIEWER)
def usage(request: TeamRequest) -> HttpResponse:
    form = UsageFilter(request.GET)
    usage_report = report(request.team, form.period(), form.selection, form.chosen_grouping)
    context = {
        "form": form,
        "report": usage_report,
        "charts": charts(usage_report),
        "chart_data": chart_data(usage_report),
        "median": duration(usage_report.used.median),
    }
    return render_htmx(request, "usage/usage.html", "usage/_usage.html", context)


@require_safe
@team_view(Role.VIEWER)
def usage_csv(request: TeamRequest) -> HttpResponse:
    form = UsageFilter(request.GET)
    usage_report = report(
        request.team, form.period(), form.selection, form.chosen_grouping, max_series=MAX_TABLE_ROWS
    )
    response = HttpResponse(report_csv(usage_report), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="usage-{request.team.slug}.csv"'
    return response


@require_safe
@team_view(Role.VIEWER)
def calls(request: TeamRequest) -> HttpResponse:
    form = CallFilter(request.GET)
    page = call_page(
        request.team, form.selection, form.status_class, request.GET.get("at", ""), form.request_id
    )
    options = menus(request.team, LAST_WEEK(database_now()), form.selection)
    context = {"form": form, "page": page, "menus": options}
    return render_htmx(request, "usage/calls.html", "usage/_calls.html", context)


@require_safe
@team_view(Role.VIEWER)
def call(request: TeamRequest, number: int) -> HttpResponse:
    return render(request, "usage/call.html", {"row": find_call(request.team, number)})


@polled
@require_safe
@team_view(Role.ADMIN)
def running(request: TeamRequest) -> HttpResponse:
    context = {"calls": running_calls(request.team)}
    return render_htmx(request, "usage/running.html", "usage/_running.html", context)


@require_POST
@team_view(Role.ADMIN)
def end_call(request: TeamRequest, call_id: str) -> HttpResponse:
    request_call_end(request.team, call_id, actor=request.user, address=request.META["REMOTE_ADDR"])
    if request.htmx:
        return HttpResponse(status=204, headers={"HX-Trigger": "running-changed"})
    messages.success(request, "The call ends within about a second.")
    return redirect("usage:running", request.team.slug)

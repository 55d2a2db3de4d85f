"""The page of models that a team's keys can call."""

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from keyportal.catalog.examples import examples_for
from keyportal.catalog.models import ServedModel
from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.models import Role

ROWS_PER_PAGE = 50


@require_safe
@team_view(Role.VIEWER)
def models(request: TeamRequest) -> HttpResponse:
    rows = ServedModel.objects.callable_by(request.team).with_upstreams()
    page = Paginator(rows, ROWS_PER_PAGE).get_page(request.GET.get("page"))
    examples = examples_for(request, request.team)
    return render(request, "catalog/models.html", {"page": page, "examples": examples})

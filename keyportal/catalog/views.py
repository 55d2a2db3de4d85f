"""The page of models that a team's keys can call."""

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from keyportal.catalog.aliases import aliases_for
from keyportal.catalog.examples import examples_for
from keyportal.catalog.models import ServedModel
from keyportal.catalog.servers.health import Health
from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.models import Role, UsedSlug

ROWS_PER_PAGE = 50


@require_safe
@team_view(Role.VIEWER)
def models(request: TeamRequest) -> HttpResponse:
    rows = ServedModel.objects.callable_by(request.team).with_upstreams().for_display()
    page = Paginator(rows, ROWS_PER_PAGE).get_page(request.GET.get("page"))
    names = aliases_for(request.team, page.object_list)
    health = Health.read()
    context = {
        "page": page,
        "rows": [(model, names[model.pk], model.health_in(health)) for model in page],
        "former_slugs": UsedSlug.objects.former().filter(team=request.team),
        "examples": examples_for(request, request.team, model=request.GET.get("model", "")),
    }
    return render(request, "catalog/models.html", context)

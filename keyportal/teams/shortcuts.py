"""One address, two answers: a fragment for HTMX, a page for everyone else."""

from collections.abc import Mapping

from django.http import HttpResponse
from django.shortcuts import render
from django.utils.cache import patch_vary_headers

from keyportal.teams.access import TeamRequest


def render_htmx(
    request: TeamRequest,
    page: str,
    fragment: str,
    context: Mapping[str, object],
    *,
    status: int = 200,
) -> HttpResponse:
    """The server alone chooses; `Vary` keeps a cache from mixing the two up."""
    template = fragment if request.htmx else page
    response = render(request, template, dict(context), status=status)
    patch_vary_headers(response, ["HX-Request"])
    return response

"""One URL, two responses: a fragment for HTMX, a whole page without it."""

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
    """Render `fragment` for HTMX and `page`, which includes it, otherwise.

    `Vary` keeps a cache from answering a request for one with the other.
    """
    template = fragment if request.htmx else page
    response = render(request, template, dict(context), status=status)
    patch_vary_headers(response, ["HX-Request"])
    return response


def render_dialog(
    request: TeamRequest,
    fragment: str,
    context: Mapping[str, object],
    *,
    title: str,
    status: int = 200,
) -> HttpResponse:
    """Render the content of a dialog: alone for HTMX, otherwise on a page with this title."""
    context = {**context, "dialog_fragment": fragment, "dialog_title": title}
    return render_htmx(request, "dialog_page.html", fragment, context, status=status)

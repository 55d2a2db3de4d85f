"""The way in, the members, and what is shown instead of a page that can't be."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_safe

from keyportal.teams.access import TeamRequest, last_team, load_last_membership, team_view
from keyportal.teams.models import Membership, Role


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    team = last_team(request)
    if team is None:
        return render(request, "teams/none.html")
    return redirect("keys:list", team.slug)


@require_safe
@team_view(Role.VIEWER)
def members(request: TeamRequest) -> HttpResponse:
    found = Membership.objects.for_team(request.team).for_display()
    return render(request, "teams/members.html", {"members": found})


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    reason = str(exception) or "You may not open this page."
    return _error(request, 403, "403.html", reason)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001 - Django's call
    return _error(request, 404, "404.html", "What was asked for is not there any more.")


def csrf_failure(request: HttpRequest, **_: str) -> HttpResponse:
    """Mostly a page that stood open while somebody signed in anew, or out. Django also tells a
    reason, which says something to developers only, and is in the log."""
    is_signed_in = request.user.is_authenticated
    why = "This page is out of date." if is_signed_in else "You are signed out; sign in again."
    return _error(request, 403, "403_csrf.html", f"{why} Nothing was changed.")


def _error(request: HttpRequest, status: int, page: str, reason: str) -> HttpResponse:
    """A page in the frame of the visitor's team; for HTMX, one sentence that it can tell."""
    if getattr(request, "htmx", False):
        response = HttpResponse(reason, status=status, content_type="text/plain; charset=utf-8")
    else:
        load_last_membership(request)
        response = render(request, page, {"reason": reason}, status=status)
    patch_vary_headers(response, ["HX-Request"])
    return response

"""The home page, and the error pages."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_safe

from keyportal.teams.access import last_team, load_last_membership


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """Redirect to the keys of the user's last team."""
    team = last_team(request)
    if team is None:
        return render(request, "teams/none.html")
    return redirect("keys:list", team.slug)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    reason = str(exception) or "You may not open this page."
    return _error(request, 403, "403.html", reason)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001 - Django's call
    return _error(request, 404, "404.html", "This page does not exist, or no longer exists.")


def too_many_writes(request: HttpRequest) -> HttpResponse:
    reason = "You sent too many changes in a short time. Wait a minute, then send this one again."
    response = _error(request, 429, "429_writes.html", reason)
    response["Retry-After"] = "60"
    return response


def csrf_failure(request: HttpRequest, **_: str) -> HttpResponse:
    """A 403, mostly of a page that was open while the user signed out or signed in again.

    Django's `reason` is for developers only, and is in the log.
    """
    is_signed_in = request.user.is_authenticated
    reason = "This page is out of date." if is_signed_in else "You are signed out; sign in again."
    return _error(request, 403, "403_csrf.html", f"{reason} Nothing was changed.")


def _error(request: HttpRequest, status: int, page: str, reason: str) -> HttpResponse:
    """An error page with the navigation of the user's team; for HTMX, only the reason as text."""
    if getattr(request, "htmx", False):
        response = HttpResponse(reason, status=status, content_type="text/plain; charset=utf-8")
    else:
        load_last_membership(request)
        response = render(request, page, {"reason": reason}, status=status)
    patch_vary_headers(response, ["HX-Request"])
    return response

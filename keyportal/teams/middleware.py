"""Middleware: 400 for NUL characters in the URL; what pages need of the person who opens them."""

from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

from allauth.core import ratelimit
from django.conf import settings
from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.db import DataError
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils.deprecation import MiddlewareMixin
from django.views import defaults

from keyportal.teams.models import User
from keyportal.teams.sign_in.requirement import require_second_factor
from keyportal.teams.sign_in.sessions import note_use
from keyportal.teams.views import too_many_writes

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PASSWORD_PAGES = frozenset({"account_change_password", "account_set_password", "account_logout"})


class RejectNulMiddleware(MiddlewareMixin):
    """Answers 400 instead of 500 when a NUL character in the URL made the view fail.

    PostgreSQL can't store NUL in text (`DataError`), and numbers can't be parsed from it
    (`ValueError`). Forms check their fields; this covers what no form checks, such as the filters
    in the URLs of Django's admin.
    """

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> HttpResponseBase | None:
        if isinstance(exception, DataError | ValueError) and "\0" in unquote(
            request.get_full_path()
        ):
            return defaults.bad_request(request, exception)
        return None


class PageLoginRequiredMiddleware(LoginRequiredMiddleware):
    """Checks whether the view needs a login before it loads the user; Django does the reverse.

    Loading the user costs two queries and a `Vary: Cookie`, which the management API, whose views
    need no login, would pay for each request with a cookie.
    """

    def process_view(
        self,
        request: HttpRequest,
        view_func: Callable[..., Any],
        view_args: tuple[Any, ...],
        view_kwargs: dict[str, Any],
    ) -> HttpResponseBase | None:
        if not getattr(view_func, "login_required", True):
            return None
        refusal = super().process_view(request, view_func, view_args, view_kwargs)
        if refusal is not None:
            return refusal
        if not (getattr(view_func, "is_polled", False) and "HX-Request" in request.headers):
            note_use(request)
        return (
            self._require_own_password(request)
            or self._require_second_factor(request)
            or self._limit_writes(request)
        )

    def _limit_writes(self, request: HttpRequest) -> HttpResponseBase | None:
        """Attack: a member's script changes a key hundreds of times a second, each time with rows
        in the audit, and under the lock of the team.
        """
        if request.method in SAFE_METHODS:
            return None
        is_allowed = ratelimit.consume(request, action="portal_write", user=request.user)
        return None if is_allowed else too_many_writes(request)

    def _require_own_password(self, request: HttpRequest) -> HttpResponseBase | None:
        """Attack: whoever saw the initial password signs in with it much later."""
        match = request.resolver_match
        is_exempt = match is not None and match.view_name in PASSWORD_PAGES
        must_change = cast("User", request.user).must_change_password
        if is_exempt or not must_change or not settings.PASSWORD_SIGN_IN:
            return None
        return redirect("account_change_password")

    def _require_second_factor(self, request: HttpRequest) -> HttpResponseBase | None:
        """The pages that set one up, confirm who it is, or sign out stay open."""
        match = request.resolver_match
        if match is not None and match.view_name.startswith(("mfa_", "account_")):
            return None
        return require_second_factor(request, settings.SECOND_FACTOR_DAYS)

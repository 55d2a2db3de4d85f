"""What an address can hold, and no text in PostgreSQL: the character NUL."""

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.db import DataError
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.deprecation import MiddlewareMixin
from django.views import defaults


class RejectNulMiddleware(MiddlewareMixin):
    """For what no form has judged, such as the filters in the addresses of Django's admin.

    Where a number is wanted, it fails before a database is asked.
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
    """Django's own asks who is signed in first, and whether that matters second: a cookie would
    cost the management API, which reads none, two queries and a `Vary`."""

    def process_view(
        self,
        request: HttpRequest,
        view_func: Callable[..., Any],
        view_args: tuple[Any, ...],
        view_kwargs: dict[str, Any],
    ) -> HttpResponseBase | None:
        if not getattr(view_func, "login_required", True):
            return None
        return super().process_view(request, view_func, view_args, view_kwargs)

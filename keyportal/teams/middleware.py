"""Login is required by default: Django's rule, in an order that leaves programs out of it."""

from collections.abc import Callable
from typing import Any

from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.http import HttpRequest
from django.http.response import HttpResponseBase


class PagesRequireLogin(LoginRequiredMiddleware):
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

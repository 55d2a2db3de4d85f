"""allauth's pages for sign-in and passwords. A password that was set makes the browser known."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from allauth.account import views
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import URLPattern, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_safe

from keyportal.teams.openid.providers import identity_providers
from keyportal.teams.sign_in import known_browsers
from keyportal.teams.sign_in.reauthentication import recently_authenticated


class _RememberBrowser:
    """For a view whose form has a `user`, who has proved who they are when it is valid."""

    def form_valid(self, form: Any) -> HttpResponseBase:
        response: HttpResponseBase = super().form_valid(form)  # type: ignore[misc]  # a mixin
        known_browsers.remember(self.request, response, form.user)  # type: ignore[attr-defined]  # a mixin
        return response


def with_passwords(page: URLPattern) -> URLPattern:
    """The pages that set, change and reset passwords, without which there are none: 404."""
    view: Callable[..., HttpResponseBase] = page.callback

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> HttpResponseBase:
        if not settings.PASSWORD_SIGN_IN:
            raise Http404
        return view(*args, **kwargs)

    if "password" in str(page.name):
        page.callback = guarded
    return page


class SignInView(views.LoginView):  # type: ignore[misc]  # untyped base
    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not settings.PASSWORD_SIGN_IN:
            raise PermissionDenied("Nobody signs in with a password here.")
        response: HttpResponseBase = super().post(request, *args, **kwargs)
        return response

    def get_context_data(self, **more: Any) -> dict[str, Any]:
        context: dict[str, Any] = super().get_context_data(**more)
        return context | {"providers": identity_providers()}


class PasswordChangeView(_RememberBrowser, views.PasswordChangeView):  # type: ignore[misc]  # untyped base
    pass


@method_decorator(recently_authenticated(), name="dispatch")  # type: ignore[arg-type]  # more general
class PasswordSetView(_RememberBrowser, views.PasswordSetView):  # type: ignore[misc]  # untyped base
    """Attack: someone at an open session, whose user has no password, sets one, and confirms with
    it wherever it is asked for.
    """


class PasswordResetFromKeyView(_RememberBrowser, views.PasswordResetFromKeyView):  # type: ignore[misc]  # untyped base
    pass


@require_safe
def sign_in_again(request: HttpRequest) -> HttpResponse:
    """For people without a password or passkey: they confirm who they are where they signed in."""
    query = urlencode({REDIRECT_FIELD_NAME: request.GET.get(REDIRECT_FIELD_NAME, "")})
    connected = SocialAccount.objects.filter(user=request.user.pk or 0).values_list("provider")
    ids = {provider for (provider,) in connected}
    context = {
        "sign_in_url": f"{reverse('account_login')}?{query}",
        "next": request.GET.get(REDIRECT_FIELD_NAME, ""),
        "providers": [provider for provider in identity_providers() if provider.id in ids],
    }
    return render(request, "account/sign_in_again.html", context)

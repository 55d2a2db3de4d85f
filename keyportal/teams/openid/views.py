"""Two pages: one that leads to an identity provider, and the one to which it leads back."""

from collections.abc import Callable
from functools import wraps
from urllib.parse import urlsplit

from allauth.core import ratelimit
from allauth.socialaccount.models import SocialApp
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView, OAuth2LoginView
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from keyportal.teams.openid.provider import OpenIDAdapter
from keyportal.teams.openid.providers import NotOffered

GONE = "This way to sign in is not offered any more. Choose another one."


View = Callable[[HttpRequest, str], HttpResponseBase]


def _offered(view: View) -> View:
    """Show the sign-in page instead if the provider is not offered, or no longer since it began."""

    @wraps(view)
    def guarded(request: HttpRequest, provider_id: str) -> HttpResponseBase:
        try:
            return view(request, provider_id)
        except (NotOffered, SocialApp.DoesNotExist):
            messages.error(request, GONE)
            return redirect("account_login")

    return guarded


@login_not_required
@require_POST
@_offered
def begin(request: HttpRequest, provider_id: str) -> HttpResponseBase:
    """Show a page that moves on to the provider by itself.

    A redirect would be the end of the form's request, and browsers follow it only to addresses in
    the policy's `form-action`: to the provider, but not on to another one at which it signs people
    in itself.
    """
    adapter = _adapter(request, provider_id)
    if refusal := ratelimit.consume_or_429(request, action="openid"):
        return refusal  # type: ignore[no-any-return]  # untyped
    response: HttpResponseBase = OAuth2LoginView.adapter_view(adapter)(request)
    if isinstance(response, HttpResponseRedirect) and urlsplit(response.url).netloc:
        context = {"url": response.url, "provider": adapter.configuration}
        return render(request, "account/to_provider.html", context)
    return response


@login_not_required
@require_GET
@_offered
def callback(request: HttpRequest, provider_id: str) -> HttpResponseBase:
    adapter = _adapter(request, provider_id)
    response: HttpResponseBase = OAuth2CallbackView.adapter_view(adapter)(request)
    return response


def _adapter(request: HttpRequest, provider_id: str) -> OpenIDAdapter:
    """Raises `NotOffered`."""
    adapter = OpenIDAdapter(request, provider_id)
    _ = adapter.configuration
    return adapter

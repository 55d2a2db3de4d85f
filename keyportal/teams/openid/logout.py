"""OpenID Connect Back-Channel Logout 1.0: a provider says that a person signed out there."""

import hashlib
import json
import logging
import time
from typing import Any

from allauth.core import ratelimit
from allauth.socialaccount.models import SocialAccount
from django.contrib.auth.decorators import login_not_required
from django.core.cache import cache
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from keyportal.teams.models import Session
from keyportal.teams.openid import id_token
from keyportal.teams.openid.configuration import IdentityProvider
from keyportal.teams.openid.providers import NotOffered, configured
from keyportal.teams.openid.requests import ProviderFailed, discover
from keyportal.teams.signals import end_sessions

logger = logging.getLogger(__name__)
EVENT = "http://schemas.openid.net/event/backchannel-logout"
REQUIRED = ("iss", "aud", "iat", "jti")
MAX_AGE_SECONDS = 300


def digest_of(provider_id: str, identifier: object) -> str:
    """Of what the provider chose: it has any length, and any characters."""
    return hashlib.sha256(json.dumps([provider_id, identifier]).encode()).hexdigest()


@csrf_exempt  # The provider has no session here. Its signature is what counts.
@never_cache
@login_not_required
@sensitive_post_parameters("logout_token")
@require_POST
def back_channel_logout(request: HttpRequest, provider_id: str) -> HttpResponse:
    if refusal := ratelimit.consume_or_429(request, action="openid_logout"):
        return refusal  # type: ignore[no-any-return]  # untyped
    try:
        provider = configured(provider_id)
        token = request.POST.get("logout_token")
        claims = id_token.decode(token, provider, discover(provider), REQUIRED)
        _check(claims)
        with transaction.atomic():  # If it fails, the provider may send the token again.
            _use_once(provider, claims["jti"])
            _end(provider, claims)
    except (NotOffered, ProviderFailed) as error:
        address = request.META.get("REMOTE_ADDR")
        logger.warning("A sign-out at %s from %s was refused: %s", provider_id, address, error)
        return JsonResponse({"error": "invalid_request"}, status=400)
    return HttpResponse()


def _use_once(provider: IdentityProvider, token_id: object) -> None:
    """Attack: somebody who has read a token signs the person out again and again."""
    name = f"openid-logout:{digest_of(provider.id, token_id)}"
    if not cache.add(name, True, timeout=MAX_AGE_SECONDS + id_token.LEEWAY_SECONDS):
        raise ProviderFailed("the token was used before")


def _end(provider: IdentityProvider, claims: dict[str, Any]) -> None:
    """The sessions that began with that one, and if the token names a person, all of theirs."""
    if isinstance(sid := claims.get("sid"), str):
        Session.objects.filter(provider_session=digest_of(provider.id, sid)).delete()
    if "sub" in claims:
        accounts = SocialAccount.objects.filter(provider=provider.id, uid=claims["sub"])
        for account in accounts.select_related("user"):
            end_sessions(account.user)


def _check(claims: dict[str, Any]) -> None:
    """Attack: an ID token, or an old token for the sign-out, signs a person out again."""
    events = claims.get("events")
    if "nonce" in claims or not (isinstance(events, dict) and EVENT in events):
        raise ProviderFailed("the token is not for a sign-out")
    sid = claims.get("sid")
    if "sub" not in claims and not (isinstance(sid, str) and sid):
        raise ProviderFailed("the token names neither a person nor a session")
    if int(claims["iat"]) < time.time() - MAX_AGE_SECONDS:
        raise ProviderFailed("the token is too old")

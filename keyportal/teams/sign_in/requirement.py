"""A second factor that the installation or a team requires, with days to set it up.

| Required by | Without one, after the days |
|---|---|
| KEYPORTAL_REQUIRE_SECOND_FACTOR | every page leads to the set-up |
| the policy of a team | every page of the team does |

API keys and management keys work on: they have no second factor. The days count from the first page
on which the person was told.
"""

from datetime import datetime, timedelta
from typing import cast

from allauth.account.authentication import get_authentication_records
from allauth.mfa.models import Authenticator
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone

from keyportal.teams.models import User

FACTORS = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)


def require_second_factor(request: HttpRequest, days: int | None) -> HttpResponse | None:
    """The way to the set-up if the person's days are over. `days` is None if none is required.

    Until then, `request.second_factor_due` makes the page remind of it.
    """
    if days is None or _has_factor(request):
        return None
    due = _told_at(cast("User", request.user)) + timedelta(days=days)
    if timezone.now() < due:
        request.second_factor_due = due  # type: ignore[attr-defined]  # for templates/base.html
        return None
    messages.warning(request, "Set up a second factor to go on: a passkey or an authenticator app.")
    if getattr(request, "htmx", False) or "HX-Request" in request.headers:
        return HttpResponse(headers={"HX-Redirect": reverse("mfa_index")})
    return redirect("mfa_index")


def _has_factor(request: HttpRequest) -> bool:
    """Or signed in at an identity provider, which decides itself what it asks for."""
    records = get_authentication_records(request, cast("User", request.user))
    return (
        any(record["method"] == "socialaccount" for record in records)
        or Authenticator.objects.filter(user_id=request.user.pk, type__in=FACTORS).exists()
    )


def _told_at(user: User) -> datetime:
    if user.second_factor_asked_at is None:
        now = timezone.now()
        # Not with `save()`: a second tab may have stored its time already.
        untold = User.objects.filter(pk=user.pk, second_factor_asked_at=None)
        untold.update(second_factor_asked_at=now)
        user.second_factor_asked_at = now
    return user.second_factor_asked_at

"""What a session keeps of the sign-in at an identity provider."""

import time
from typing import Any

from allauth.account.signals import user_logged_in
from allauth.socialaccount.signals import pre_social_login
from django.dispatch import receiver
from django.http import HttpRequest

from keyportal.teams.openid.logout import digest_of
from keyportal.teams.sign_in.reauthentication import PROVED_AT
from keyportal.teams.sign_in.sessions import PROVIDER_SESSION


@receiver(user_logged_in)
def note_time_of_proof(request: HttpRequest, sociallogin: Any = None, **_: object) -> None:
    """When the person proved there who they are, which may be hours before the sign-in here.

    Attack: at an open browser, the provider signs in again without a question, and a page that asks
    again is satisfied.
    """
    auth_time = getattr(sociallogin, "claims", {}).get("auth_time")
    if isinstance(auth_time, int):
        request.session[PROVED_AT] = min(auth_time, int(time.time()))


@receiver(pre_social_login)
def keep_provider_session(request: HttpRequest, sociallogin: Any, **_: object) -> None:
    """In `state`, which allauth keeps while it asks for the second factor. It loses the claims.

    Also in the session that waits for the factor, which ends if the person signs out there now.
    """
    sid = sociallogin.claims.get("sid")
    if isinstance(sid, str):
        digest = digest_of(sociallogin.account.provider, sid)
        sociallogin.state[PROVIDER_SESSION] = digest
        if not request.user.is_authenticated:
            request.session[PROVIDER_SESSION] = digest


@receiver(user_logged_in)
def note_provider_session(request: HttpRequest, sociallogin: Any = None, **_: object) -> None:
    if digest := getattr(sociallogin, "state", {}).get(PROVIDER_SESSION):
        request.session[PROVIDER_SESSION] = digest

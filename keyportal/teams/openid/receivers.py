"""When somebody proved to a provider who they are, which may be hours before a sign-in here.

Attack: at an open browser, the provider signs in again without a question, and a page that asks
again is satisfied.
"""

import time
from typing import Any

from allauth.account.signals import user_logged_in
from django.dispatch import receiver
from django.http import HttpRequest

from keyportal.teams.sign_in.reauthentication import PROVED_AT


@receiver(user_logged_in)
def note_time_of_proof(request: HttpRequest, sociallogin: Any = None, **_: object) -> None:
    auth_time = getattr(sociallogin, "claims", {}).get("auth_time")
    if isinstance(auth_time, int):
        request.session[PROVED_AT] = min(auth_time, int(time.time()))

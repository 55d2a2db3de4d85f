"""Ask again: some changes need a password, passkey or provider of the last 15 minutes.

Attack: someone at an open session, or with a stolen one, makes a management key, changes an owner
or the policy, or turns off the second factor, and so keeps the account.
"""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, cast
from urllib.parse import urlencode

from allauth.account.adapter import get_adapter
from allauth.account.authentication import get_authentication_records
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from keyportal.teams.sign_in.sessions import BEGAN_AT

View = Callable[..., HttpResponse]
# When an identity provider last asked, if it says so. Before the sign-in here, which it then ended.
PROVED_AT = "proved_at"


def recently_authenticated(*, to_read: bool = True) -> Callable[[View], View]:
    """Decorate a view for people who signed in, or confirmed who they are, in the last 15 minutes.

    Others are asked first, and then come to the same address by GET, which the view must accept. A
    form that was sent is not sent again, because its values would have to be stored. With
    `to_read=False`, the page itself opens for all, and only what it sends needs this.

    Use it below the decorators that check the method and the role.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            is_reading = request.method in {"GET", "HEAD"}
            if is_recent(request) or (is_reading and not to_read):
                return view(request, *args, **kwargs)
            if not is_reading:
                messages.warning(
                    request, "Nothing is changed yet. Confirm that it is you, then do it again."
                )
            return _ask(request)

        return guarded

    return decorate


def is_recent(request: HttpRequest) -> bool:
    """Whether the user of this session proved who they are in the last 15 minutes."""
    records = get_authentication_records(request, cast("Any", request.user))
    times = [record["at"] for record in records if record.get("reauthenticated")]
    began_at = request.session.get(BEGAN_AT, 0)
    newest = max([request.session.get(PROVED_AT, began_at), *times])
    return bool(time.time() - newest < settings.ACCOUNT_REAUTHENTICATION_TIMEOUT)


def confirmation_url(request: HttpRequest) -> str:
    """For a page that says it before a form is filled in: where to confirm; empty if not needed."""
    return "" if is_recent(request) else _url(request)


def _url(request: HttpRequest) -> str:
    methods = get_adapter(request).get_reauthentication_methods(request.user)
    url = methods[0]["url"] if methods else reverse("account_sign_in_again")
    return f"{url}?{urlencode({REDIRECT_FIELD_NAME: request.get_full_path()})}"


def _ask(request: HttpRequest) -> HttpResponse:
    """HTMX would follow a redirect and put the page into the dialog, so it gets a header."""
    if getattr(request, "htmx", False):
        return HttpResponse(headers={"HX-Redirect": _url(request)})
    return redirect(_url(request))

"""The cookie of a browser in which a user signed in before.

It opens nothing. Wrong passwords that others try elsewhere do not count against this browser, see
`attempts`. The signature depends on the user's password, so a new password ends all such cookies.
Attack: a person who knew the former password kept a hundred of them, each with a count of its own.
"""

import secrets

from django.conf import settings
from django.core.signing import BadSignature, TimestampSigner
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from keyportal.teams.models import User

MAX_AGE_SECONDS = 180 * 24 * 3600


def remember(request: HttpRequest, response: HttpResponseBase, user: User) -> None:
    """Mark the browser as known to the user, who has just proved who they are."""
    response.set_cookie(
        _cookie_name(user),
        _signer(user).sign(find(request, user) or secrets.token_hex(8)),
        max_age=MAX_AGE_SECONDS,
        path=settings.SESSION_COOKIE_PATH,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def find(request: HttpRequest, user: User | None) -> str:
    """The id of the browser if the user is known in it, else empty."""
    signed = request.COOKIES.get(_cookie_name(user)) if user else None
    if user is None or not signed:
        return ""
    try:
        return _signer(user).unsign(signed, max_age=MAX_AGE_SECONDS)
    except BadSignature:
        return ""


def _cookie_name(user: User) -> str:
    """People who share a browser have one each."""
    return f"{settings.COOKIE_PREFIX}keyportal_known_{user.pk}"


def _signer(user: User) -> TimestampSigner:
    return TimestampSigner(salt=f"known browser {user.pk} {user.get_session_auth_hash()}")

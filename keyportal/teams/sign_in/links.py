"""One-time links with which operators sign somebody in from the shell, themselves first.

Attack: a link is used twice, or much later. It names the user's last sign-in, which changes when it
is used, and is valid for ten minutes.
"""

from allauth.account.utils import perform_login
from django.contrib.auth.decorators import login_not_required
from django.core.signing import BadSignature, TimestampSigner
from django.db import transaction
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from keyportal.teams.models import User

MAX_AGE_SECONDS = 600
_signer = TimestampSigner(salt="sign-in link")


def path_for(user: User) -> str:
    return reverse("account_sign_in_link", args=[_signer.sign(_subject(user))])


def _subject(user: User) -> str:
    """The password's part: a link does not outlive a change of it."""
    at = user.last_login.isoformat() if user.last_login else "never"
    return f"{user.pk} {at} {user.get_session_auth_hash()[:16]}"


@login_not_required
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest, token: str) -> HttpResponseBase:
    """A page first: programs that look at links before people do must not use it up."""
    if request.method != "POST":
        return render(request, "account/sign_in_link.html", {"person": _find(token)})
    with transaction.atomic():
        # Locked, so that of two uses at the same moment one finds that it came second.
        response: HttpResponseBase = perform_login(
            request, _find(token, lock=True), email_verification="none", redirect_url="/"
        )
        return response


def _find(token: str, *, lock: bool = False) -> User:
    users = User.objects.select_for_update() if lock else User.objects.all()
    try:
        subject = _signer.unsign(token, max_age=MAX_AGE_SECONDS)
        user = users.get(pk=int(subject.partition(" ")[0]), is_active=True)
    except (BadSignature, ValueError, User.DoesNotExist):
        raise Http404 from None
    if _subject(user) != subject:
        raise Http404
    return user

"""The page behind the link of an invitation: sign in or make an account, then join.

It needs no session, and shows what the link's holder may know. All other people see one of three
pages that say what to do and nothing else.
"""

from typing import cast

from allauth.account.utils import complete_signup
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.html import format_html
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from keyportal.people import links
from keyportal.people.forms import ACCOUNT_EXISTS, JoinForm
from keyportal.people.invitations import OtherAccount, accept, is_for
from keyportal.people.models import Invitation
from keyportal.teams.models import Membership, User
from keyportal.teams.openid.providers import identity_providers


@never_cache
@sensitive_post_parameters()
@login_not_required
@require_http_methods(["GET", "POST"])
def invitation(request: HttpRequest, token: str) -> HttpResponseBase:
    try:
        link = links.read(token)
        row = links.find(link)
        if request.user.is_authenticated:
            return _with_account(request, link, row)
        return _without_account(request, link, row)
    except links.DeadLink as reason:
        status = 404 if isinstance(reason, links.ForgedLink) else 410
        context = {"title": reason.title, "reason": str(reason)}
        return render(request, "people/dead_link.html", context, status=status)


def _with_account(request: HttpRequest, link: links.Link, row: Invitation) -> HttpResponse:
    user = cast("User", request.user)
    if request.method == "POST":
        try:
            membership = accept(link, user, address=request.META["REMOTE_ADDR"])
        except OtherAccount:
            return _page(request, row, status=403)
        messages.success(request, f"You are now in {membership.team}.")
        return redirect("keys:list", membership.team.slug)
    return _page(request, row)


def _without_account(request: HttpRequest, link: links.Link, row: Invitation) -> HttpResponseBase:
    """Make an account and join, both or neither. Then sign in."""
    if not settings.PASSWORD_SIGN_IN:
        return _page(request, row)
    form = JoinForm(request.POST if request.method == "POST" else None, invitation=row)
    if not form.is_valid():
        return _page(request, row, form, status=422 if form.is_bound else 200)
    try:
        user, membership = _join(request, link, form)
    except IntegrityError:  # Another request has just taken the name or the address.
        form.add_error(None, ACCOUNT_EXISTS)
        return _page(request, row, form, status=422)
    url = reverse("keys:list", args=[membership.team.slug])
    response: HttpResponseBase = complete_signup(request, user, "none", url)
    return response


@transaction.atomic
def _join(request: HttpRequest, link: links.Link, form: JoinForm) -> tuple[User, Membership]:
    user = form.save(request)
    return user, accept(link, user, address=request.META["REMOTE_ADDR"])


def _page(
    request: HttpRequest, row: Invitation, form: JoinForm | None = None, status: int = 200
) -> HttpResponse:
    user = request.user
    context = {
        "invitation": row,
        "form": form,
        "is_other_account": isinstance(user, User) and not is_for(row, user),
        "next": request.path,
        "redirect_field": format_html('<input type="hidden" name="next" value="{}">', request.path),
        "providers": identity_providers(),
    }
    return render(request, "people/invitation.html", context, status=status)

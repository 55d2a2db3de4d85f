"""People: list, deactivate and activate, make operators, reset second factors."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from allauth.mfa.utils import is_mfa_enabled
from django.contrib import messages
from django.contrib.auth import logout
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from keyportal.keys.models import ApiKey
from keyportal.operators.access import OperatorRequest, operator_view
from keyportal.operators.lists import count_of, searched
from keyportal.operators.people import reset_factors, set_active, set_operator
from keyportal.teams.models import Membership, User
from keyportal.teams.sign_in.reauthentication import recently_authenticated

COLUMNS = ("username", "email", "first_name", "last_name")


@require_safe
@operator_view
def person_list(request: OperatorRequest) -> HttpResponse:
    people = User.objects.filter(service_team=None).annotate(
        team_count=count_of(Membership, "user")
    )
    context = searched(request, people.order_by("username"), *COLUMNS)
    return render(request, "operators/people.html", context)


@require_safe
@operator_view
def person(request: OperatorRequest, person_id: int) -> HttpResponse:
    row = _person(person_id)
    memberships = Membership.objects.filter(user=row)
    context = {
        "person": row,
        "memberships": memberships.for_display().select_related("team").order_by("team__name"),
        "key_count": _key_count(row),
        "has_factor": is_mfa_enabled(row),
    }
    return render(request, "operators/person.html", context)


def _person(person_id: int) -> User:
    """Service accounts are no people: the admins of their team look after them."""
    return get_object_or_404(User, pk=person_id, service_team=None)


def _key_count(row: User) -> int:
    return ApiKey.objects.filter(owner=row).count()


class Act(NamedTuple):
    """What an operator does with a person after a page has said what follows."""

    do: Callable[..., None]
    message: str


ACTS = {
    "person_deactivate": Act(partial(set_active, is_active=False), "{} is deactivated."),
    "person_activate": Act(partial(set_active, is_active=True), "{} is active again."),
    "operator_grant": Act(partial(set_operator, is_operator=True), "{} is an operator now."),
    "operator_revoke": Act(partial(set_operator, is_operator=False), "{} is no operator any more."),
    "factor_reset": Act(reset_factors, "The second factors of {} are removed."),
}
"""By the names of their pages."""


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def person_act(request: OperatorRequest, person_id: int, act: str) -> HttpResponse:
    row = _person(person_id)
    if request.method != "POST":
        context = {"person": row, "key_count": _key_count(row)}
        return render(request, f"operators/{act}.html", context)
    ACTS[act].do(row, actor=request.user)
    if row == request.user:  # They ended their own rights, or their session.
        logout(request)
        return redirect("account_login")
    messages.success(request, ACTS[act].message.format(row.get_username()))
    return redirect("operators:person", row.pk)

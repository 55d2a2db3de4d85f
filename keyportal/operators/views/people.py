"""People: list, deactivate and activate, make operators, reset second factors."""

from collections.abc import Callable

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
    context = {
        "person": row,
        "memberships": Membership.objects.filter(user=row).select_related("team"),
        "key_count": _key_count(row),
        "has_factor": is_mfa_enabled(row),
    }
    return render(request, "operators/person.html", context)


def _person(person_id: int) -> User:
    """Service accounts are no people: the admins of their team look after them."""
    return get_object_or_404(User, pk=person_id, service_team=None)


def _key_count(row: User) -> int:
    return ApiKey.objects.filter(owner=row).count()


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def person_deactivate(request: OperatorRequest, person_id: int) -> HttpResponse:
    return _confirmed(
        request,
        person_id,
        "person_deactivate",
        lambda row: set_active(row, is_active=False, actor=request.user),
        "{} is deactivated.",
    )


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def person_activate(request: OperatorRequest, person_id: int) -> HttpResponse:
    return _confirmed(
        request,
        person_id,
        "person_activate",
        lambda row: set_active(row, is_active=True, actor=request.user),
        "{} is active again.",
    )


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def operator_grant(request: OperatorRequest, person_id: int) -> HttpResponse:
    return _confirmed(
        request,
        person_id,
        "operator_grant",
        lambda row: set_operator(row, is_operator=True, actor=request.user),
        "{} is an operator now.",
    )


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def operator_revoke(request: OperatorRequest, person_id: int) -> HttpResponse:
    return _confirmed(
        request,
        person_id,
        "operator_revoke",
        lambda row: set_operator(row, is_operator=False, actor=request.user),
        "{} is no operator any more.",
    )


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def factor_reset(request: OperatorRequest, person_id: int) -> HttpResponse:
    return _confirmed(
        request,
        person_id,
        "factor_reset",
        lambda row: reset_factors(row, actor=request.user),
        "The second factors of {} are removed.",
    )


def _confirmed(
    request: OperatorRequest,
    person_id: int,
    page: str,
    act: Callable[[User], None],
    message: str,
) -> HttpResponse:
    """A page that says what follows, and the act once it is confirmed."""
    row = _person(person_id)
    if request.method != "POST":
        context = {"person": row, "key_count": _key_count(row)}
        return render(request, f"operators/{page}.html", context)
    act(row)
    if row == request.user:  # They ended their own rights, or their session.
        logout(request)
        return redirect("account_login")
    messages.success(request, message.format(row.get_username()))
    return redirect("operators:person", row.pk)

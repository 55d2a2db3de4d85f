"""Pages of the team's service accounts: members see them, admins create, change and delete them."""

import json

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_safe

from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.forms import Conflict
from keyportal.teams.models import Role, User
from keyportal.teams.service_accounts import changes
from keyportal.teams.service_accounts.forms import ContactForm, CreateForm
from keyportal.teams.shortcuts import render_dialog, render_htmx


@require_safe
@team_view(Role.VIEWER)
def account_list(request: TeamRequest) -> HttpResponse:
    context = {"accounts": changes.service_accounts(request.team)}
    page, fragment = "teams/service_accounts.html", "teams/_service_accounts.html"
    return render_htmx(request, page, fragment, context)


@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
def account_create(request: TeamRequest) -> HttpResponse:
    form = CreateForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            account = changes.create(request.team, **form.cleaned_data, actor=request.user)
            return _done(request, f"The service account {account.username} is created.")
        except ValidationError as error:
            form.add_errors(error)
    status = 422 if form.is_bound else 200
    return _dialog(request, "create", {"form": form}, "Create service account", status)


@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
def account_change(request: TeamRequest, account_id: int) -> HttpResponse:
    account = _account_or_404(request, account_id)
    form = ContactForm(request.POST if request.method == "POST" else None, account=account)
    if form.is_valid():
        try:
            contact = form.cleaned_data["contact"]
            changes.change_contact(account, contact, check=form.require_current, actor=request.user)
            return _done(request, f"The contact of {account.username} is changed.")
        except Conflict as conflict:
            account.refresh_from_db(fields=["contact"])
            form = ContactForm(account=account, conflict=str(conflict))
        except User.DoesNotExist:
            raise Http404 from None
    context = {"form": form, "account": account}
    return _dialog(request, "change", context, "Change contact", form.status)


@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
def account_delete(request: TeamRequest, account_id: int) -> HttpResponse:
    account = _account_or_404(request, account_id)
    status = 200
    if request.method == "POST":
        try:
            changes.delete(account, actor=request.user)
            return _done(request, f"The service account {account.username} is deleted.")
        except changes.StillOwnsKeys:
            account, status = _account_or_404(request, account_id), 409
        except User.DoesNotExist:
            raise Http404 from None
    return _dialog(request, "delete", {"account": account}, "Delete service account", status)


def _account_or_404(request: TeamRequest, account_id: int) -> User:
    """404 both for an account of another team, and for a person."""
    accounts = changes.service_accounts(request.team)
    account: User | None = accounts.filter(pk=account_id).first()
    if account is None:
        raise Http404
    return account


def _done(request: TeamRequest, message: str) -> HttpResponse:
    if request.htmx:
        # In this order: the page announces the message after the dialog has closed.
        events = {"service-accounts-changed": None, "dialog-close": None, "show-message": message}
        return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(events)})
    messages.success(request, message)
    return redirect("teams:service_accounts", request.team.slug)


def _dialog(
    request: TeamRequest, name: str, context: dict[str, object], title: str, status: int
) -> HttpResponse:
    fragment = f"teams/_service_account_{name}.html"
    return render_dialog(request, fragment, context, title=title, status=status)

"""Change a key: name, permissions, expiry, owner, disabled, managed.

`changes` checks each change and writes it to the audit; it holds from the next request on.
"""

from collections.abc import Callable, Mapping
from typing import Any

from django import forms
from django.http import HttpResponse
from django.views.decorators.http import require_http_methods, require_POST

from keyportal.keys.changes import change_key, disable, enable, hand_over, set_managed
from keyportal.keys.exceptions import KeyActionError, LeakNotAccepted, ManagedByAdmin, NameTaken
from keyportal.keys.forms.edit import EditForm, HandOverForm, KeyExpiryForm, PermissionsForm
from keyportal.keys.models import ApiKey, lock_key
from keyportal.keys.views.decorators import key_end_view, key_view, managed_key_view
from keyportal.keys.views.responses import key_changed
from keyportal.teams.access import TeamRequest, require_change, require_role
from keyportal.teams.forms import Conflict
from keyportal.teams.models import Role
from keyportal.teams.shortcuts import render_dialog

DIALOG_TITLES = {
    "permissions": "Permissions",
    "edit": "Edit API key",
    "key_expiry": "Expiry",
    "hand_over": "Hand over API key",
}


@require_http_methods(["GET", "POST"])
@managed_key_view
def key_permissions(request: TeamRequest, key: ApiKey) -> HttpResponse:
    return _change(request, key, PermissionsForm, "permissions", _permissions_changed)


@require_http_methods(["GET", "POST"])
@key_view
def key_edit(request: TeamRequest, key: ApiKey) -> HttpResponse:
    return _change(request, key, EditForm, "edit", _edited)


@require_http_methods(["GET", "POST"])
@managed_key_view
def key_expiry(request: TeamRequest, key: ApiKey) -> HttpResponse:
    return _change(request, key, KeyExpiryForm, "key_expiry", _expiry_changed)


def _permissions_changed(key: ApiKey) -> str:
    return f"The permissions of {key.name} are changed."


def _edited(key: ApiKey) -> str:
    return f"The key {key.name} is changed."


def _expiry_changed(key: ApiKey) -> str:
    if key.expires_at is None:
        return f"The key {key.name} never expires."
    return f"The key {key.name} expires on {key.expires_at:%Y-%m-%d}."


def _change(
    request: TeamRequest,
    key: ApiKey,
    form_class: type[EditForm] | type[KeyExpiryForm] | type[PermissionsForm],
    template: str,
    message: Callable[[ApiKey], str],
) -> HttpResponse:
    form = form_class(_posted(request), key=key)
    if not form.is_valid():
        return _form(request, key, template, form, form.status)
    try:
        with lock_key(key, actor=request.user, right=require_change) as row:
            form.require_current(row)
            saved = change_key(row, form.changes, **_audit_fields(request))
    except Conflict as conflict:
        form = form_class(key=row, conflict=str(conflict))
        return _form(request, row, template, form, form.status)
    except ManagedByAdmin:
        raise
    except KeyActionError as error:
        form.add_error("name" if isinstance(error, NameTaken) else None, str(error))
        return _form(request, key, template, form, form.status)
    return key_changed(request, key, message(saved))


@require_http_methods(["GET", "POST"])
@managed_key_view
def key_hand_over(request: TeamRequest, key: ApiKey) -> HttpResponse:
    form = HandOverForm(_posted(request), key=key)
    if not form.is_valid():
        return _form(request, key, "hand_over", form, form.status)
    owner = form.cleaned_data["owner"]
    try:
        with lock_key(key, actor=request.user, right=require_change) as row:
            form.require_current(row)
            hand_over(row, owner, **_audit_fields(request))
    except Conflict as conflict:
        form = HandOverForm(key=row, conflict=str(conflict))
        return _form(request, row, "hand_over", form, form.status)
    except ManagedByAdmin:
        raise
    except KeyActionError as error:
        form.add_error("owner", str(error))
        return _form(request, key, "hand_over", form, form.status)
    return key_changed(request, key, f"{owner.get_username()} now owns the key {key.name}.")


@require_http_methods(["GET", "POST"])
@key_end_view
def key_disable(request: TeamRequest, key: ApiKey) -> HttpResponse:
    if request.method != "POST":
        return render_dialog(request, "keys/_disable.html", {"key": key}, title="Disable API key")
    disable(key, **_audit_fields(request))
    return key_changed(request, key, f"The key {key.name} is disabled.")


@require_http_methods(["GET", "POST"])
@managed_key_view
def key_enable(request: TeamRequest, key: ApiKey) -> HttpResponse:
    """For a leaked key, the dialog with the warning comes first, even if the user clicked Enable on
    a page from before the report."""
    if request.method != "POST":
        return _enable_dialog(request, key, 200)
    try:
        key = enable(key, accept_leak="leak" in request.POST, **_audit_fields(request))
    except LeakNotAccepted:
        key.refresh_from_db(fields=["reported_at", "disabled_by"])
        return _enable_dialog(request, key, 422)
    note = " An admin still manages it." if key.is_managed else ""
    return key_changed(request, key, f"The key {key.name} is enabled.{note}")


def _enable_dialog(request: TeamRequest, key: ApiKey, status: int) -> HttpResponse:
    return render_dialog(
        request, "keys/_enable.html", {"key": key}, title="Enable API key", status=status
    )


@require_POST
@key_view
def key_manage(request: TeamRequest, key: ApiKey) -> HttpResponse:
    return _set_managed(request, key, True, f"The key {key.name} is managed by an admin.")


@require_POST
@key_view
def key_unmanage(request: TeamRequest, key: ApiKey) -> HttpResponse:
    return _set_managed(request, key, False, f"The key {key.name} is managed by its owner again.")


def _set_managed(request: TeamRequest, key: ApiKey, is_managed: bool, message: str) -> HttpResponse:
    require_role(request.membership, Role.ADMIN)
    set_managed(key, is_managed, **_audit_fields(request))
    return key_changed(request, key, message)


def _posted(request: TeamRequest) -> Mapping[str, str] | None:
    return request.POST if request.method == "POST" else None


def _audit_fields(request: TeamRequest) -> dict[str, Any]:
    return {"actor": request.user, "address": request.META["REMOTE_ADDR"]}


def _form(
    request: TeamRequest, key: ApiKey, template: str, form: forms.Form, status: int
) -> HttpResponse:
    return render_dialog(
        request,
        f"keys/_{template}.html",
        {"key": key, "form": form},
        title=DIALOG_TITLES[template],
        status=status,
    )

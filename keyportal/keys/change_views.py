"""Changing a key that is there: what it may do, what it is called, whose it is, when it ends.

Each change is judged and told in the audit by `changes`, and holds for the next request.
"""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.views.decorators.http import require_http_methods

from keyportal.catalog.models import ServedModel
from keyportal.keys.change_forms import EditForm, HandOverForm, KeyExpiryForm, PermissionsForm
from keyportal.keys.changes import Changes, change, disable, enable, hand_over, locked
from keyportal.keys.models import ApiKey
from keyportal.keys.opened import changed, key_view
from keyportal.keys.refusals import KeyRefused, NameTaken
from keyportal.keys.shown import About, End
from keyportal.teams.access import TeamRequest
from keyportal.teams.models import Role
from keyportal.teams.pages import render_part


@require_http_methods(["GET", "POST"])
@key_view
def key_permissions(request: TeamRequest, key: ApiKey) -> HttpResponse:
    names = [*ServedModel.objects.callable_by(key.team).values_list("name", flat=True)]
    form = PermissionsForm(_posted(request), now=key.permissions, names=names)
    if form.is_valid():
        with locked(key) as found:
            permissions = form.applied_to(found.permissions)
            is_changed = _is_changed(request, key, Changes(permissions=permissions), form)
        if is_changed:
            return changed(request, key, f"What {key.name} may do is changed.")
    return _form(request, key, "permissions", form)


@require_http_methods(["GET", "POST"])
@key_view
def key_edit(request: TeamRequest, key: ApiKey) -> HttpResponse:
    form = EditForm(_posted(request), key=key)
    if form.is_valid():
        with locked(key) as found:
            about = form.applied_to(About.of(found))
            is_changed = _is_changed(request, key, Changes(*about), form)
        if is_changed:
            return changed(request, key, f"The key {about.name} is changed.")
    return _form(request, key, "edit", form)


@require_http_methods(["GET", "POST"])
@key_view
def key_expiry(request: TeamRequest, key: ApiKey) -> HttpResponse:
    latest = None if request.membership.is_at_least(Role.ADMIN) else key.granted_expires_at
    form = KeyExpiryForm(_posted(request), key=key, latest=latest)
    if form.is_valid():
        with locked(key) as found:
            end = form.applied_to(End.of(found))
            is_changed = _is_changed(request, key, Changes(expires_at=end), form)
        if is_changed:
            when = f"expires on {end:%Y-%m-%d}" if end else "never expires"
            return changed(request, key, f"The key {key.name} {when}.")
    return _form(request, key, "key_expiry", form)


@require_http_methods(["GET", "POST"])
@key_view
def key_hand_over(request: TeamRequest, key: ApiKey) -> HttpResponse:
    form = HandOverForm(_posted(request), key=key)
    if not form.is_valid():
        return _form(request, key, "hand_over", form)
    owner = form.cleaned_data["owner"]
    try:
        hand_over(key, owner, **_who(request))
    except KeyRefused as refusal:
        form.add_error("owner", str(refusal))
        return _form(request, key, "hand_over", form)
    return changed(request, key, f"The key {key.name} belongs to {owner.get_username()} now.")


@require_http_methods(["GET", "POST"])
@key_view
def key_disable(request: TeamRequest, key: ApiKey) -> HttpResponse:
    if request.method != "POST":
        return render_part(request, "keys/disable.html", "keys/_disable.html", {"key": key})
    disable(key, **_who(request))
    return changed(request, key, f"The key {key.name} is disabled.")


@require_http_methods(["GET", "POST"])
@key_view
def key_enable(request: TeamRequest, key: ApiKey) -> HttpResponse:
    """Of a secret that leaked it is told first what that does, also where the page on which
    somebody asks for it is from before the report."""
    is_leaked = bool(key.disabled_at and key.reported_at)
    if request.method != "POST" or (is_leaked and "leak" not in request.POST):
        status = 200 if request.method != "POST" else 422
        context = {"key": key}
        return render_part(request, "keys/enable.html", "keys/_enable.html", context, status=status)
    try:
        enable(key, **_who(request))
    except KeyRefused as refusal:
        raise PermissionDenied(str(refusal)) from None
    return changed(request, key, f"The key {key.name} is enabled.")


def _posted(request: TeamRequest) -> Mapping[str, str] | None:
    return request.POST if request.method == "POST" else None


def _who(request: TeamRequest) -> dict[str, Any]:
    return {"actor": request.user, "address": request.META["REMOTE_ADDR"]}


def _is_changed(request: TeamRequest, key: ApiKey, changes: Changes, form: forms.Form) -> bool:
    """Whether it was; the form tells why not."""
    try:
        change(key, changes, **_who(request))
    except KeyRefused as refusal:
        form.add_error("name" if isinstance(refusal, NameTaken) else None, str(refusal))
        return False
    return True


def _form(request: TeamRequest, key: ApiKey, what: str, form: forms.Form) -> HttpResponse:
    return render_part(
        request,
        f"keys/{what}.html",
        f"keys/_{what}.html",
        {"key": key, "form": form},
        status=422 if form.is_bound else 200,
    )

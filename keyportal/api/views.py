"""Pages of the team's management keys: its admins list, create and delete them."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from keyportal.api.forms import ManagementKeyForm
from keyportal.api.models import ManagementKey
from keyportal.catalog.examples import public_url
from keyportal.keys.exceptions import KeyActionError, NonceAlreadyUsed
from keyportal.keys.keystring import KeyString
from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.models import Role
from keyportal.teams.shortcuts import render_dialog, render_htmx
from keyportal.teams.sign_in.reauthentication import recently_authenticated


@require_safe
@team_view(Role.ADMIN)
def management_key_list(request: TeamRequest) -> HttpResponse:
    keys = ManagementKey.objects.for_team(request.team).for_display()
    return render_htmx(request, "api/list.html", "api/_table.html", {"keys": keys})


@sensitive_post_parameters("nonce")
@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
@recently_authenticated()
@sensitive_variables("key_string")
def management_key_create(request: TeamRequest) -> HttpResponse:
    form = ManagementKeyForm(request.POST if request.method == "POST" else None)
    if not form.is_valid():
        return _render_form(request, form)
    try:
        key, key_string = ManagementKey.objects.issue(
            team=request.team,
            owner=request.user,
            actor=request.user,
            address=request.META["REMOTE_ADDR"],
            **form.issue_arguments,
        )
    except NonceAlreadyUsed:
        return _render_notice(request, "already", title="Already created", status=409)
    except KeyActionError as refusal:
        form.add_error("name", str(refusal))
        return _render_form(request, form)
    return _render_created(request, key, key_string)


@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
def management_key_delete(request: TeamRequest, public_id: str) -> HttpResponse:
    try:
        keys = ManagementKey.objects.for_team(request.team).select_related("owner")
        key = keys.get(public_id=public_id)
        if request.method != "POST":
            return render_dialog(
                request, "api/_delete.html", {"key": key}, title="Delete management key"
            )
        key.revoke(actor=request.user, address=request.META["REMOTE_ADDR"])
    except ManagementKey.DoesNotExist:
        return _render_notice(request, "gone", title="Management key not found", status=404)
    if request.htmx:
        changed = "management-keys-changed, dialog-close"
        return HttpResponse(status=204, headers={"HX-Trigger": changed})
    messages.success(request, f"The management key {key.name} is deleted.")
    return redirect("management_keys:list", request.team.slug)


def _render_form(request: TeamRequest, form: ManagementKeyForm) -> HttpResponse:
    status = 422 if form.is_bound else 200
    context = {"form": form}
    return render_dialog(
        request, "api/_create.html", context, title="Create management key", status=status
    )


@sensitive_variables()
def _render_created(
    request: TeamRequest, key: ManagementKey, key_string: KeyString
) -> HttpResponse:
    """Only this response holds the key string; a session or a message would store it."""
    context = {"key": key, "plaintext": key_string.text, "address": public_url(request)}
    response = render_dialog(request, "api/_created.html", context, title="Management key created")
    response["HX-Trigger"] = "management-keys-changed"
    return response


def _render_notice(request: TeamRequest, name: str, *, title: str, status: int) -> HttpResponse:
    """A dialog that says why there is nothing to do; the list behind it is out of date."""
    response = render_dialog(request, f"api/_{name}.html", {}, title=title, status=status)
    response["HX-Trigger"] = "management-keys-changed"
    return response

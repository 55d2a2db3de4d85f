"""Model servers: list, add, edit, switch off and on, delete."""

from collections.abc import Mapping
from copy import copy
from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db.models import Count, QuerySet
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from keyportal.catalog.forms import TeamUpstreamForm, UpstreamForm
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.catalog.servers.changes import TOO_MANY, delete_server
from keyportal.catalog.servers.health import Health
from keyportal.catalog.servers.presets import PRESETS, presets_for
from keyportal.operators.server_access import ServerRequest, server_view
from keyportal.teams.forms import preset_named
from keyportal.teams.sign_in.reauthentication import recently_authenticated

MAX_LISTED = 200


@require_safe
@server_view
def server_list(request: ServerRequest) -> HttpResponse:
    servers = request.scope.servers().select_related("team")
    servers = servers.annotate(model_count=Count("routes__model", distinct=True))
    health = Health.read()
    rows = [
        (server, health.of_server(server.fingerprint)) for server in servers.order_by("name", "pk")
    ]
    return render(request, "operators/servers.html", {"rows": rows, "scope": request.scope})


@require_safe
@server_view
def server(request: ServerRequest, server_id: int) -> HttpResponse:
    upstream = request.scope.get(server_id)
    routes = Route.objects.filter(upstream=upstream).select_related("model__team")
    context = {
        "scope": request.scope,
        "server": upstream,
        "health": Health.read().of_server(upstream.fingerprint),
        "routes": routes.order_by("model__name", "upstream_model")[:MAX_LISTED],
        "route_count": routes.count(),
    }
    return render(request, "operators/server.html", context)


@sensitive_post_parameters("credential", "headers")
@require_http_methods(["GET", "POST"])
@server_view
@recently_authenticated()
def server_add(request: ServerRequest) -> HttpResponse:
    preset = preset_named(request.GET.get("preset", ""), PRESETS)
    upstream = Upstream(team=request.scope.team)
    context = {"presets": presets_for(request.scope.team), "preset": preset}
    if request.method != "POST":
        form = _form(upstream, initial=preset.initial if preset else None)
        return _form_page(request, form, context)
    return _save(request, _form(upstream, request.POST), context)


@sensitive_post_parameters("credential", "headers")
@require_http_methods(["GET", "POST"])
@server_view
@recently_authenticated()
def server_edit(request: ServerRequest, server_id: int) -> HttpResponse:
    upstream = request.scope.get(server_id)
    context = {"server": upstream}
    if request.method != "POST":
        return _form_page(request, _form(upstream), context)
    # A copy, so that the page has the stored name when the form is refused.
    return _save(request, _form(copy(upstream), request.POST), context)


def _form(upstream: Upstream, data: Any = None, **options: Any) -> UpstreamForm:
    form = TeamUpstreamForm if upstream.team_id else UpstreamForm
    return form(data, instance=upstream, **options)


def _form_page(
    request: ServerRequest, form: UpstreamForm, context: Mapping[str, object], *, status: int = 200
) -> HttpResponse:
    page = {"form": form, "scope": request.scope, **context}
    return render(request, "operators/server_form.html", page, status=status)


def _save(
    request: ServerRequest, form: UpstreamForm, context: Mapping[str, object]
) -> HttpResponse:
    with request.scope.lock():
        if form.instance.pk:  # It may have been deleted since.
            request.scope.get_locked(form.instance.pk)
        elif request.scope.is_full and form.is_valid():
            form.add_error(None, TOO_MANY)
        upstream = form.save_changes() if form.is_valid() else None
    if upstream is None:
        form.ask_for_secrets_again()
        return _form_page(request, form, context, status=422)
    what = "changed" if "server" in context else "added. Test it, then discover its models"
    messages.success(request, f"The model server {upstream} is {what}.")
    return redirect(f"{request.scope.url}{upstream.pk}/")


@require_POST
@server_view
def server_off(request: ServerRequest, server_id: int) -> HttpResponse:
    return _switch(request, server_id, is_active=False)


@require_http_methods(["GET", "POST"])
@server_view
@recently_authenticated(to_read=False)
def server_on(request: ServerRequest, server_id: int) -> HttpResponse:
    if request.method != "POST":
        return redirect(f"{request.scope.url}{request.scope.get(server_id).pk}/")
    return _switch(request, server_id, is_active=True)


def _switch(request: ServerRequest, server_id: int, *, is_active: bool) -> HttpResponse:
    with request.scope.lock():
        upstream = request.scope.get_locked(server_id)
        try:
            upstream.switch(is_active=is_active, by_team=request.scope.team is not None)
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
            return redirect(f"{request.scope.url}{server_id}/")
    what = "gets calls again" if is_active else "gets no new calls; running calls end as usual"
    messages.success(request, f"The model server {upstream} {what}.")
    return redirect(f"{request.scope.url}{server_id}/")


@require_http_methods(["GET", "POST"])
@server_view
@recently_authenticated()
def server_delete(request: ServerRequest, server_id: int) -> HttpResponse:
    upstream = request.scope.get(server_id)
    if request.method != "POST":
        stopping = _only_on(upstream).order_by("name")
        count = stopping.count()
        context = {
            "scope": request.scope,
            "server": upstream,
            "stopping": stopping[:MAX_LISTED],
            "stopping_count": count,
            "rest_count": max(count - MAX_LISTED, 0),
            "other_count": Route.objects.usable().filter(upstream=upstream).count(),
        }
        return render(request, "operators/server_delete.html", context)
    with request.scope.lock():
        upstream = request.scope.get_locked(server_id)
        delete_server(upstream)
    messages.success(request, f"The model server {upstream} is deleted.")
    return redirect(request.scope.url)


def _only_on(upstream: Upstream) -> QuerySet[ServedModel]:
    """The models that no other server serves."""
    usable = Route.objects.usable()
    here = usable.filter(upstream=upstream).values("model")
    elsewhere = usable.exclude(upstream=upstream).values("model")
    return ServedModel.objects.filter(pk__in=here).exclude(pk__in=elsewhere)

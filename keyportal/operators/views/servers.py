"""Model servers: list, add, edit, switch off and on, delete."""

from collections.abc import Mapping
from copy import copy

from django.contrib import messages
from django.db.models import Count, QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from keyportal.catalog.forms import UpstreamForm
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.catalog.servers.health import Health
from keyportal.catalog.servers.presets import PRESETS, preset_named
from keyportal.operators.access import OperatorRequest, lock_operators, operator_view
from keyportal.teams.sign_in.reauthentication import recently_authenticated

MAX_LISTED = 200


@require_safe
@operator_view
def server_list(request: OperatorRequest) -> HttpResponse:
    servers = Upstream.objects.annotate(model_count=Count("routes__model", distinct=True))
    health = Health.read()
    rows = [(server, health.of_server(server.fingerprint)) for server in servers.order_by("name")]
    return render(request, "operators/servers.html", {"rows": rows})


@require_safe
@operator_view
def server(request: OperatorRequest, server_id: int) -> HttpResponse:
    upstream = get_object_or_404(Upstream, pk=server_id)
    routes = Route.objects.filter(upstream=upstream).select_related("model__team")
    context = {
        "server": upstream,
        "health": Health.read().of_server(upstream.fingerprint),
        "routes": routes.order_by("model__name", "upstream_model")[:MAX_LISTED],
        "route_count": routes.count(),
    }
    return render(request, "operators/server.html", context)


@sensitive_post_parameters("credential", "headers")
@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def server_add(request: OperatorRequest) -> HttpResponse:
    preset = preset_named(request.GET.get("preset", ""))
    context = {"presets": PRESETS, "preset": preset}
    if request.method != "POST":
        form = UpstreamForm(initial=preset.initial if preset else None)
        return render(request, "operators/server_form.html", {"form": form, **context})
    return _save(request, UpstreamForm(request.POST), context)


@sensitive_post_parameters("credential", "headers")
@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def server_edit(request: OperatorRequest, server_id: int) -> HttpResponse:
    upstream = get_object_or_404(Upstream, pk=server_id)
    context = {"server": upstream}
    if request.method != "POST":
        form = UpstreamForm(instance=upstream)
        return render(request, "operators/server_form.html", {"form": form, **context})
    # A copy, so that the page has the stored name when the form is refused.
    return _save(request, UpstreamForm(request.POST, instance=copy(upstream)), context)


def _save(
    request: OperatorRequest, form: UpstreamForm, context: Mapping[str, object]
) -> HttpResponse:
    with lock_operators(request.user):
        if form.instance.pk:  # It may have been deleted since.
            get_object_or_404(Upstream.objects.select_for_update(), pk=form.instance.pk)
        upstream = form.save_changes() if form.is_valid() else None
    if upstream is None:
        page = {"form": form, **context}
        return render(request, "operators/server_form.html", page, status=422)
    what = "changed" if "server" in context else "added. Test it, then discover its models"
    messages.success(request, f"The model server {upstream} is {what}.")
    return redirect("operators:server", upstream.pk)


@require_POST
@operator_view
def server_off(request: OperatorRequest, server_id: int) -> HttpResponse:
    return _switch(request, server_id, is_active=False)


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated(to_read=False)
def server_on(request: OperatorRequest, server_id: int) -> HttpResponse:
    if request.method != "POST":
        return redirect("operators:server", server_id)
    return _switch(request, server_id, is_active=True)


def _switch(request: OperatorRequest, server_id: int, *, is_active: bool) -> HttpResponse:
    with lock_operators(request.user):
        upstream = get_object_or_404(Upstream.objects.select_for_update(), pk=server_id)
        upstream.is_active = is_active
        upstream.save(update_fields=["is_active"])
    what = "gets calls again" if is_active else "gets no new calls; running calls end as usual"
    messages.success(request, f"The model server {upstream} {what}.")
    return redirect("operators:server", server_id)


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def server_delete(request: OperatorRequest, server_id: int) -> HttpResponse:
    upstream = get_object_or_404(Upstream, pk=server_id)
    if request.method != "POST":
        stopping = _only_on(upstream).order_by("name")
        count = stopping.count()
        context = {
            "server": upstream,
            "stopping": stopping[:MAX_LISTED],
            "stopping_count": count,
            "rest_count": max(count - MAX_LISTED, 0),
            "other_count": Route.objects.usable().filter(upstream=upstream).count(),
        }
        return render(request, "operators/server_delete.html", context)
    with lock_operators(request.user):
        # What it served remains as models without a route, which can get another server.
        get_object_or_404(Upstream.objects.select_for_update(), pk=server_id).delete()
    messages.success(request, f"The model server {upstream} is deleted.")
    return redirect("operators:servers")


def _only_on(upstream: Upstream) -> QuerySet[ServedModel]:
    """The models that no other server serves."""
    usable = Route.objects.usable()
    here = usable.filter(upstream=upstream).values("model")
    elsewhere = usable.exclude(upstream=upstream).values("model")
    return ServedModel.objects.filter(pk__in=here).exclude(pk__in=elsewhere)

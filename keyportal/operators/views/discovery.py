"""What a model server says: a test of it, and its models, to choose those that are served."""

from urllib.parse import urlencode

from allauth.core import ratelimit
from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.html import format_html
from django.views.decorators.http import require_http_methods, require_POST

from keyportal.catalog.credentials import CredentialUnreadable
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.catalog.servers.discovery import BareList, DiscoveryFailed, model_ids
from keyportal.catalog.servers.trial import try_server
from keyportal.operators.connections import release_connection
from keyportal.operators.forms import DiscoverForm, ModelForm, served_ids
from keyportal.operators.server_access import ServerRequest, server_view
from keyportal.teams.access import last_team
from keyportal.teams.models import Team
from keyportal.teams.sign_in.reauthentication import recently_authenticated

MAX_ROWS = 500  # A form has at most 1,000 fields.


@require_POST
@server_view
def server_test(request: ServerRequest, server_id: int) -> HttpResponse:
    upstream = request.scope.get(server_id)
    routes = Route.objects.filter(upstream=upstream).order_by("pk")
    model = routes.values_list("upstream_model", flat=True).first() or ""
    release_connection()
    steps = list(try_server(upstream, model))
    has_problem = any(step.is_good is False for step in steps)
    context = {"scope": request.scope, "server": upstream, "steps": steps}
    return render(request, "operators/server_test.html", context | {"has_problem": has_problem})


@require_http_methods(["GET", "POST"])
@server_view
@recently_authenticated(to_read=False)
def server_discover(request: ServerRequest, server_id: int) -> HttpResponse:
    """The list is read again for the POST: only what the server lists now can be chosen."""
    upstream = request.scope.get(server_id)
    # Attack: reading the page again and again floods a server in the Internet with requests.
    limit = {"action": "ask_server", "user": request.user, "limit_get": True}
    if refusal := ratelimit.consume_or_429(request, **limit):
        return refusal  # type: ignore[no-any-return]  # untyped
    release_connection()
    try:
        ids = model_ids(upstream)
    except BareList as error:
        ids = error.ids
    except (DiscoveryFailed, CredentialUnreadable) as error:
        context = {"scope": request.scope, "server": upstream, "reason": str(error)}
        return render(request, "operators/server_discover.html", context)
    data = request.POST if request.method == "POST" else None
    form = DiscoverForm(data, upstream=upstream, ids=ids)
    if not form.is_valid():
        return _choices(request, upstream, form, ids)
    with request.scope.lock():
        served, skipped = form.serve(request.scope.get_locked(server_id))
    if form.errors:
        return _choices(request, upstream, form, ids)
    if served:
        _tell(request, served, form.team)
    for reason in skipped[:5]:
        messages.warning(request, reason)
    return redirect(f"{request.scope.url}{upstream.pk}/")


def _choices(
    request: ServerRequest, upstream: Upstream, form: DiscoverForm, ids: list[str]
) -> HttpResponse:
    query = request.GET.get("q", "")[:200]
    matching = [id_ for id_ in ids if query.casefold() in id_.casefold()]
    names, ticked = served_ids(upstream), set(request.POST.getlist("ids"))
    rows = [(id_, names.get(id_, ()), id_ in ticked) for id_ in matching[:MAX_ROWS]]
    context = {
        "scope": request.scope,
        "server": upstream,
        "form": form,
        "rows": rows,
        "query": query,
        "match_count": len(matching),
        "list_count": len(ids),
    }
    status = 422 if form.is_bound else 200
    return render(request, "operators/server_discover.html", context, status=status)


def _tell(request: ServerRequest, served: list[str], team: Team | None) -> None:
    """What is served now, for this team or for all, and where to go from here."""
    name, last = served[0], last_team(request)
    if last and team in (None, last):
        query = urlencode({"model": name})
        url, step = f"{reverse('catalog:models', args=[last.slug])}?{query}#call", "See how to call"
    else:
        url, step = f"{reverse('operators:models')}?{urlencode({'q': name})}", "Describe"
    what = "it" if len(served) == 1 else name
    text = '<span>Served now: {}. <a href="{}">{} {}</a></span>'
    messages.success(request, format_html(text, _some(served), url, step, what))


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + rest


@require_http_methods(["GET", "POST"])
@server_view
@recently_authenticated()
def model_add(request: ServerRequest, server_id: int) -> HttpResponse:
    upstream = request.scope.get(server_id)
    form = ModelForm(request.POST if request.method == "POST" else None, upstream=upstream)
    if form.is_valid():
        with request.scope.lock():
            is_served = form.serve(request.scope.get_locked(server_id))
        if is_served:
            _tell(request, [form.cleaned_data["name"]], form.cleaned_data["team"])
            return redirect(f"{request.scope.url}{upstream.pk}/")
    context = {"scope": request.scope, "server": upstream, "form": form}
    status = 422 if form.is_bound else 200
    return render(request, "operators/model_add.html", context, status=status)


@require_http_methods(["GET", "POST"])
@server_view
@recently_authenticated(to_read=False)
def route_delete(request: ServerRequest, server_id: int, route_id: int) -> HttpResponse:
    if request.method != "POST":
        return redirect(f"{request.scope.url}{request.scope.get(server_id).pk}/")
    with request.scope.lock():
        upstream = request.scope.get_locked(server_id)
        route = Route.objects.filter(upstream=upstream, pk=route_id).first()
        if route is None:
            raise Http404
        route.delete()
        if upstream.team_id:
            ServedModel.objects.filter(pk=route.model_id, routes=None).delete()
    messages.success(request, f"{route.model} is no longer served by {route.upstream}.")
    return redirect(f"{request.scope.url}{server_id}/")

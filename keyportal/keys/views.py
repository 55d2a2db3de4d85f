"""The team's API keys: see, make and delete them, and read what they are."""

from datetime import datetime
from typing import NamedTuple

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.html import format_html
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from keyportal.activity.impact import impact
from keyportal.activity.receipts import Receipt
from keyportal.activity.sparkline import Sparkline, sparklines
from keyportal.catalog.examples import examples_for
from keyportal.keys import secret
from keyportal.keys.badges import Badge, badges
from keyportal.keys.create_form import CreateForm
from keyportal.keys.forms import ListForm
from keyportal.keys.last_use import last_use, last_used_at
from keyportal.keys.models import ApiKey
from keyportal.keys.policy import breaches_by_owning
from keyportal.keys.refusals import AlreadyCreated, KeyLimitReached, KeyRefused
from keyportal.keys.secret import KeyString
from keyportal.teams.access import (
    TeamRequest,
    makers,
    may_change,
    require_change,
    require_role,
    team_view,
)
from keyportal.teams.models import Role
from keyportal.teams.pages import render_part

ROWS = 25


class Row(NamedTuple):
    key: ApiKey
    badges: list[Badge]
    is_changeable: bool
    sparkline: Sparkline | None
    used_at: datetime | None


@require_safe
@team_view(Role.VIEWER)
def key_list(request: TeamRequest) -> HttpResponse:
    if secret.redact(typed := request.GET.get("q", "")) != typed:
        return _search_by_public_id(request, typed)
    form = ListForm(request.GET)
    keys = ApiKey.objects.of(request.team)
    found = keys.matching(form.value("q"))
    pages = Paginator(found.ids_sorted_by(form.sorting), ROWS)
    pages.count = found.count()  # The sorted ids would be counted with all they are sorted by.
    page = pages.get_page(request.GET.get("page"))
    shown = keys.for_display().in_bulk(page.object_list)
    lines = sparklines(request.team, [key.public_id for key in shown.values()])
    used_at = last_used_at(shown.values())
    rows = [
        Row(
            key,
            badges(key),
            may_change(request.membership, key),
            lines.get(key.public_id),
            used_at.get(key.public_id),
        )
        for key in (shown[pk] for pk in page if pk in shown)
    ]
    context = {"form": form, "page": page, "rows": rows, "used": _used(request)}
    return render_part(request, "keys/list.html", "keys/_table.html", context)


@sensitive_post_parameters("nonce")
@require_http_methods(["GET", "POST"])
@team_view(Role.MEMBER)
@sensitive_variables("key_string")
def key_create(request: TeamRequest) -> HttpResponse:
    require_role(request.membership, makers(request.team))
    form = CreateForm(request.POST if request.method == "POST" else None, team=request.team)
    if not form.is_valid():
        return _create_form(request, form)
    try:
        key, key_string = ApiKey.objects.issue(
            team=request.team,
            owner=request.user,
            actor=request.user,
            address=request.META["REMOTE_ADDR"],
            **form.asked,
        )
    except AlreadyCreated:
        return already_created(request)
    except KeyRefused as refusal:
        form.add_error("name", str(refusal))
        return _create_form(request, form)
    return created(request, key, key_string)


@require_http_methods(["GET", "POST"])
@team_view(Role.MEMBER)
def key_delete(request: TeamRequest, public_id: str) -> HttpResponse:
    try:
        key = ApiKey.objects.of(request.team).for_display().get(public_id=public_id)
        require_change(request.membership, key)
        if request.method != "POST":
            stops = impact(request.team, [public_id])
            context = {"key": key, "used": last_use(key), "impact": stops}
            return render_part(request, "keys/delete.html", "keys/_delete.html", context)
        key.revoke(actor=request.user, address=request.META["REMOTE_ADDR"])
    except ApiKey.DoesNotExist:
        return gone(request, public_id)
    return _deleted(request, key)


@require_safe
@team_view(Role.VIEWER)
def key_receipt(request: TeamRequest, public_id: str) -> HttpResponse:
    receipt = Receipt.of(request.team, public_id)
    if receipt is None:
        raise Http404
    return render_part(request, "keys/receipt.html", "keys/_receipt.html", {"receipt": receipt})


@require_safe
@team_view(Role.VIEWER)
def overview(request: TeamRequest) -> HttpResponse:
    context = {"examples": examples_for(request, request.team), "used": _used(request)}
    return render(request, "keys/overview.html", context)


def _search_by_public_id(request: TeamRequest, typed: str) -> HttpResponse:
    """A key that was pasted into the search leaves the address, and so the browser's history.

    HTMX follows a redirect as the browser does, and shows the address that it led to.
    """
    query = request.GET.copy()
    query["q"] = secret.public_id_in(typed)
    return redirect(f"{request.path}?{query.urlencode()}")


def _used(request: TeamRequest) -> int:
    return ApiKey.objects.of(request.team).count()


def _create_form(request: TeamRequest, form: CreateForm) -> HttpResponse:
    used = _used(request)
    context = {"form": form, "used": used, "is_full": _is_full(request, used)}
    status = 422 if form.is_bound else 200
    return render_part(request, "keys/create.html", "keys/_create.html", context, status=status)


def _is_full(request: TeamRequest, used: int) -> str:
    """Why no key can be made whatever is typed; empty if one can."""
    if used >= request.team.key_limit:
        return str(KeyLimitReached(request.team.key_limit, used))
    return " ".join(breaches_by_owning(request.team, request.user.pk, None))


@sensitive_variables()
def created(request: TeamRequest, key: ApiKey, key_string: KeyString) -> HttpResponse:
    """The one exception to redirect-after-POST: only this answer ever holds the plaintext.

    A session or a message would store it, an address would log it.
    """
    context = {
        "key": key,
        "plaintext": key_string.text,
        "examples": examples_for(request, request.team, key_string.text),
    }
    response = render_part(request, "keys/created.html", "keys/_created.html", context)
    response["HX-Trigger"] = "keys-changed"
    return response


def already_created(request: TeamRequest) -> HttpResponse:
    """The first answer may have been lost on its way, and with it the word to reload the list."""
    response = render_part(request, "keys/already.html", "keys/_already.html", {}, status=409)
    response["HX-Trigger"] = "keys-changed"
    return response


def _deleted(request: TeamRequest, key: ApiKey) -> HttpResponse:
    if request.htmx:
        return HttpResponse(status=204, headers={"HX-Trigger": "keys-changed, dialog-close"})
    receipt = reverse("keys:receipt", args=[request.team.slug, key.public_id])
    told = 'The key {} is deleted. <a href="{}">See the receipt</a>'
    messages.success(request, format_html(told, key.name, receipt))
    return redirect("keys:list", request.team.slug)


def gone(request: TeamRequest, public_id: str) -> HttpResponse:
    """Where something was to be done with a key that is not there; the list is out of date."""
    response = no_such_key(request, public_id)
    response["HX-Trigger"] = "keys-changed"
    return response


def no_such_key(request: TeamRequest, public_id: str) -> HttpResponse:
    """Deleted from this team, or never in it: the ids of other teams can't be probed."""
    context = {"receipt": Receipt.of(request.team, public_id)}
    return render_part(request, "keys/gone.html", "keys/_gone.html", context, status=404)

"""Create a team; its General page, which members read; and its end, by its owners."""

from datetime import timedelta
from typing import Any, cast

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from keyportal.database.clock import database_now
from keyportal.teams.access import TeamRequest, require_role, team_view
from keyportal.teams.forms import Conflict
from keyportal.teams.lifecycle import changes
from keyportal.teams.lifecycle.forms import CreateForm, DeleteForm, NameForm, SlugForm
from keyportal.teams.models import Role, Team, UsedSlug, User
from keyportal.teams.sign_in.reauthentication import recently_authenticated


@require_http_methods(["GET", "POST"])
@team_view(Role.MEMBER)
def general(request: TeamRequest) -> HttpResponse:
    if request.method == "POST":
        require_role(request.membership, Role.ADMIN)
    form = NameForm(request.POST if request.method == "POST" else None, team=request.team)
    if not form.is_valid():
        return _page(request, form)
    try:
        changes.rename(
            request.team,
            form.cleaned_data["name"],
            check=form.require_current,
            **_source(request),
        )
    except Conflict as conflict:
        request.team.refresh_from_db(fields=["name"])
        return _page(request, NameForm(team=request.team, conflict=str(conflict)))
    messages.success(request, "The name is changed.")
    return redirect("teams:general", request.team.slug)


@require_http_methods(["GET", "POST"])
@team_view(Role.OWNER)
@recently_authenticated()
def team_slug(request: TeamRequest) -> HttpResponse:
    form = SlugForm(request.POST if request.method == "POST" else None, team=request.team)
    if form.is_valid():
        slug = form.cleaned_data["slug"]
        try:
            changes.change_slug(request.team, slug, check=form.require_current, **_source(request))
        except Conflict as conflict:
            request.team.refresh_from_db(fields=["slug"])
            form = SlugForm(team=request.team, conflict=str(conflict))
        except ValidationError as error:
            for message in error.messages:
                form.add_error("slug", message)
        else:
            messages.success(request, f"The slug is {slug} now.")
            return redirect("teams:general", slug)
    return render(request, "teams/slug.html", {"form": form}, status=form.status)


@require_http_methods(["GET", "POST"])
@team_view(Role.OWNER)
@recently_authenticated()
def team_off(request: TeamRequest) -> HttpResponse:
    if request.method != "POST":
        return render(request, "teams/off.html", {"stops": _what_stops(request.team)})
    changes.switch_off(request.team, **_source(request))
    messages.success(request, f"{request.team.name} is switched off.")
    return redirect("home")


@require_http_methods(["GET", "POST"])
@team_view(Role.OWNER)
@recently_authenticated()
def team_delete(request: TeamRequest) -> HttpResponse:
    form = DeleteForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            changes.delete(request.team, form.cleaned_data["name"], **_source(request))
        except changes.WrongName as error:
            request.team.refresh_from_db(fields=["name"])
            form.add_error("name", str(error))
        else:
            messages.success(request, f"{request.team.name} is deleted.")
            return redirect("home")
    context = {"form": form, "stops": _what_stops(request.team)}
    status = 422 if form.is_bound else 200
    return render(request, "teams/delete.html", context, status=status)


@never_cache
@require_http_methods(["GET", "POST"])
def team_create(request: HttpRequest) -> HttpResponse:
    user = cast("User", request.user)
    if not changes.may_create(user):
        raise PermissionDenied("Only operators create teams here. Ask one.")
    form = CreateForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            source = {"actor": user, "address": request.META["REMOTE_ADDR"]}
            team = changes.create(**form.cleaned_data, **source)
        except ValidationError as error:
            form.add_errors(error)
        else:
            messages.success(request, f"{team.name} is created.")
            return redirect("teams:general", team.slug)
    return render(
        request, "teams/create.html", {"form": form}, status=422 if form.is_bound else 200
    )


def _what_stops(team: Team) -> dict[str, int]:
    """Numbers of what ends with the team, by their names; without zeros."""
    used = Q(secrets__last_used_at__gte=database_now() - timedelta(days=1))
    counts = {
        "API keys": team.keys.count(),
        "of these, used in the last 24 hours": team.keys.filter(used).distinct().count(),
        "management keys": team.management_keys.count(),
        "models of the team": team.models.count(),
        "service accounts": team.service_accounts.count(),
        "members": team.memberships.filter(user__service_team=None).count(),
    }
    return {name: count for name, count in counts.items() if count}


def _source(request: TeamRequest) -> Any:
    return {"actor": request.user, "address": request.META["REMOTE_ADDR"]}


def _page(request: TeamRequest, form: NameForm) -> HttpResponse:
    former = UsedSlug.objects.former().filter(team=request.team)
    context = {"form": form, "former_slugs": former}
    return render(request, "teams/general.html", context, status=form.status)

"""Who may see and change which model servers: operators all of them, and admins of a team those of
the team. Their pages are the same: the address decides, `/operators/` or `/teams/<slug>/`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast

from django.conf import settings
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django_htmx.middleware import HtmxDetails

from keyportal.catalog.models import Upstream
from keyportal.catalog.servers.changes import is_full
from keyportal.operators.access import lock_operators, operator_view
from keyportal.teams.access import TeamRequest, lock_team, team_view
from keyportal.teams.models import Role, Team, User

P = ParamSpec("P")


@dataclass(frozen=True)
class Scope:
    """The servers of one team, or for an operator all servers."""

    user: User
    team: Team | None = None

    @property
    def url(self) -> str:
        """Of the list. The pages of one server are below it."""
        if self.team:
            return reverse("team_servers:servers", args=[self.team.slug])
        return reverse("operators:servers")

    @property
    def frame(self) -> str:
        """The template that the pages extend."""
        return "operators/team_frame.html" if self.team else "operators/base.html"

    @property
    def is_closed(self) -> bool:
        """Whether the operators don't let teams have servers, or no longer."""
        return self.team is not None and not settings.TEAM_SERVERS

    @property
    def is_full(self) -> bool:
        return self.team is not None and is_full(self.team)

    def servers(self) -> QuerySet[Upstream]:
        return Upstream.objects.filter(team=self.team) if self.team else Upstream.objects.all()

    def get(self, server_id: int) -> Upstream:
        """Raises `Http404`, also for the id of another team's server."""
        return get_object_or_404(self.servers(), pk=server_id)

    def lock(self) -> AbstractContextManager[object]:
        """A transaction in which the user has their authority to its end. Raises `Outsider`, or
        `PermissionDenied` with the reason.
        """
        if self.team:
            return lock_team(self.team, actor=self.user, role=Role.ADMIN)
        return lock_operators(self.user)

    def get_locked(self, server_id: int) -> Upstream:
        """As it is now, inside `lock`."""
        return get_object_or_404(self.servers().select_for_update(), pk=server_id)


class ServerRequest(HttpRequest):
    user: User
    htmx: HtmxDetails
    scope: Scope


def server_view(
    view: Callable[Concatenate[ServerRequest, P], HttpResponse],
) -> Callable[..., HttpResponse]:
    """Decorate a view for operators, and for admins of a team."""

    def scoped(request: HttpRequest, team: Team | None, *args: Any, **kwargs: Any) -> HttpResponse:
        server_request = cast("ServerRequest", request)
        server_request.scope = Scope(server_request.user, team)
        return view(server_request, *args, **kwargs)

    @operator_view
    def for_operators(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return scoped(request, None, *args, **kwargs)

    @team_view(Role.ADMIN)
    def for_team(request: TeamRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return scoped(request, request.team, *args, **kwargs)

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        chosen = for_team if "slug" in kwargs else for_operators
        return chosen(request, *args, **kwargs)

    return guarded

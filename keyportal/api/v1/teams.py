"""The team that a management key belongs to, and the management key itself."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, PageQuery, paginate
from keyportal.api.framework.parsing import NoQuery
from keyportal.api.framework.problems import NotFound
from keyportal.api.scopes import Scope
from keyportal.api.v1.permissions import PermissionsBody
from keyportal.api.v1.types import LimitsBody, RoleValue, ScopeValue
from keyportal.teams.models import Team

operations = Operations()


class TeamBody(Struct):
    slug: str
    name: str
    created_at: datetime
    max_keys: Annotated[int, Meta(description="The maximum number of API keys.")]
    key_count: int
    limits: Annotated[LimitsBody, Meta(description="The limits on all its keys together.")]
    key_limits: Annotated[LimitsBody, Meta(description="The limits of a new key.")]


class ManagementKeyBody(Struct):
    id: str
    name: str
    masked: str
    team: str
    owner: str
    role: Annotated[
        RoleValue, Meta(description="The owner's role in the team, which is checked as well.")
    ]
    scopes: list[ScopeValue]
    permissions: Annotated[
        PermissionsBody, Meta(description="The widest permissions of keys that are made with it.")
    ]
    created_at: datetime
    expires_at: datetime | None


def serialize(team: Team) -> TeamBody:
    return TeamBody(
        slug=team.slug,
        name=team.name,
        created_at=team.created_at,
        max_keys=team.max_keys,
        key_count=team.keys.count(),
        limits=LimitsBody.from_limits(team.limits),
        key_limits=LimitsBody.from_limits(team.key_limits),
    )


@operations.get("self", response=ManagementKeyBody)
def read_self(request: Request[None, NoQuery]) -> ManagementKeyBody:
    """Read this management key itself

    This needs no scope.
    """
    key, membership = request.caller.key, request.caller.membership
    return ManagementKeyBody(
        id=key.public_id,
        name=key.name,
        masked=key.masked,
        team=membership.team.slug,
        owner=membership.user.get_username(),
        role=membership.role,
        scopes=key.scopes,
        permissions=PermissionsBody.from_permissions(key.permissions),
        created_at=key.created_at,
        expires_at=key.expires_at,
    )


@operations.get("teams", scope=Scope.TEAMS_READ, query=PageQuery, response=Page[TeamBody])
def list_teams(request: Request[None, PageQuery]) -> Page[TeamBody]:
    """List the teams of this management key

    There is exactly one: the team it belongs to.
    """
    return paginate(Team.objects.filter(pk=request.caller.team.pk), request.query, serialize)


@operations.get("teams/{slug}", scope=Scope.TEAMS_READ, response=TeamBody, errors=(NotFound,))
def read_team(request: Request[None, NoQuery], slug: str) -> TeamBody:
    """Read the team

    For 90 days after the team got another slug, its former slug finds it too.
    """
    if Team.objects.find(slug) != request.caller.team:
        raise NotFound
    return serialize(request.caller.team)

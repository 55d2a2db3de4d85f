"""The team that a management key belongs to, and the management key itself."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, Paged, page
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
    key_limit: Annotated[int, Meta(description="How many API keys it may have at a time.")]
    key_count: int
    limits: Annotated[LimitsBody, Meta(description="A roof over all its keys together.")]
    key_limits: Annotated[LimitsBody, Meta(description="What a new key starts with.")]


class SelfBody(Struct):
    id: str
    name: str
    masked: str
    team: str
    owner: str
    role: Annotated[RoleValue, Meta(description="The owner's in the team, which decides as well.")]
    scopes: list[ScopeValue]
    permissions: Annotated[
        PermissionsBody, Meta(description="The most that keys made with it may have.")
    ]
    created_at: datetime
    expires_at: datetime | None


def told(team: Team) -> TeamBody:
    return TeamBody(
        slug=team.slug,
        name=team.name,
        created_at=team.created_at,
        key_limit=team.key_limit,
        key_count=team.keys.count(),
        limits=LimitsBody.of(team.limits),
        key_limits=LimitsBody.of(team.key_limits),
    )


@operations.get("self", answer=SelfBody)
def read_self(asked: Request[None, NoQuery]) -> SelfBody:
    """Tell what this management key is

    Any management key may ask, whatever its scopes.
    """
    key, membership = asked.caller.key, asked.caller.membership
    return SelfBody(
        id=key.public_id,
        name=key.name,
        masked=key.masked,
        team=membership.team.slug,
        owner=membership.user.get_username(),
        role=membership.role,
        scopes=key.scopes,
        permissions=PermissionsBody.of(key.permissions),
        created_at=key.created_at,
        expires_at=key.expires_at,
    )


@operations.get("teams", scope=Scope.TEAMS_READ, query=Paged, answer=Page[TeamBody])
def list_teams(asked: Request[None, Paged]) -> Page[TeamBody]:
    """List the teams that this management key sees

    That is one: the team it belongs to.
    """
    return page(Team.objects.filter(pk=asked.caller.team.pk), asked.query, told)


@operations.get("teams/{slug}", scope=Scope.TEAMS_READ, answer=TeamBody, refuses=(NotFound,))
def read_team(asked: Request[None, NoQuery], slug: str) -> TeamBody:
    """Tell of a team."""
    if slug != asked.caller.team.slug:
        raise NotFound
    return told(asked.caller.team)

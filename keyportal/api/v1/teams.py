"""The team that a management key belongs to, and the management key itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

from django.core.exceptions import PermissionDenied, ValidationError
from msgspec import UNSET, Meta, Struct, UnsetType

from keyportal.api.framework.authentication import Caller
from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, PageQuery, paginate
from keyportal.api.framework.parsing import NoQuery
from keyportal.api.framework.problems import FieldError, Invalid, NotFound, WeakRole
from keyportal.api.scopes import Scope
from keyportal.api.v1.permissions import PermissionsBody
from keyportal.api.v1.types import LimitsBody, RoleValue, ScopeValue, Slug, TeamName
from keyportal.teams.lifecycle import changes
from keyportal.teams.models import Role, Team

operations = Operations()


class TeamBody(Struct):
    slug: str
    name: str
    created_at: datetime
    max_keys: Annotated[int, Meta(description="The maximum number of API keys.")]
    key_count: int
    limits: Annotated[LimitsBody, Meta(description="The limits on all its keys together.")]
    key_limits: Annotated[LimitsBody, Meta(description="The limits of a new key.")]


class TeamChanges(Struct, forbid_unknown_fields=True):
    """What is left out stays unchanged."""

    name: TeamName | UnsetType = UNSET
    slug: Annotated[Slug | UnsetType, Meta(description="Only an owner's program can set it.")] = (
        UNSET
    )


class Deletion(Struct, forbid_unknown_fields=True):
    confirm_name: Annotated[
        str, Meta(max_length=100, description="The name of the team, to confirm.")
    ]


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
    return serialize(_team(request.caller, slug))


@operations.patch(
    "teams/{slug}",
    scope=Scope.TEAMS_WRITE,
    role=Role.ADMIN,
    body=TeamChanges,
    response=TeamBody,
    errors=(NotFound,),
)
def change_team(request: Request[TeamChanges, NoQuery], slug: str) -> TeamBody:
    """Change the name or the slug of the team

    With the slug, the names of its models and service accounts change. Addresses and model names
    with the former slug work for 90 days.
    """
    caller, body = request.caller, request.body
    team = _team(caller, slug)
    with _errors_as_problems():
        if body.name is not UNSET:
            changes.rename(team, body.name, actor=caller.user, address=caller.address)
        if body.slug is not UNSET:
            changes.change_slug(team, body.slug, actor=caller.user, address=caller.address)
    team.refresh_from_db()
    return serialize(team)


@operations.post(
    "teams/{slug}/switch-off",
    scope=Scope.TEAMS_DELETE,
    role=Role.OWNER,
    status=204,
    errors=(NotFound,),
)
def switch_off_team(request: Request[None, NoQuery], slug: str) -> None:
    """Switch the team off

    Its API keys are refused from the next request on, and so is this management key. Only an
    operator switches the team on again.
    """
    caller = request.caller
    changes.switch_off(_team(caller, slug), actor=caller.user, address=caller.address)


@operations.delete(
    "teams/{slug}",
    scope=Scope.TEAMS_DELETE,
    role=Role.OWNER,
    query=Deletion,
    errors=(NotFound, Invalid),
)
def delete_team(request: Request[None, Deletion], slug: str) -> None:
    """Delete the team

    With its API keys, management keys, models and service accounts, for good. What happened stays
    in the history, for operators.
    """
    caller = request.caller
    team, name = _team(caller, slug), request.query.confirm_name
    try:
        changes.delete(team, name, actor=caller.user, address=caller.address)
    except changes.WrongName:
        error = FieldError("This is not the name of the team.", parameter="confirm_name")
        raise Invalid(errors=[error]) from None


def _team(caller: Caller, slug: str) -> Team:
    """The caller's team, also by a former slug. Raises `NotFound` for every other one."""
    if Team.objects.find(slug) != caller.team:
        raise NotFound
    return caller.team


@contextmanager
def _errors_as_problems() -> Iterator[None]:
    """Raises a `Problem` in place of an exception of the rules for teams."""
    try:
        yield
    except PermissionDenied as refusal:
        raise WeakRole(str(refusal)) from None
    except ValidationError as error:
        field = "name" if "name" in getattr(error, "error_dict", {}) else "slug"
        raise Invalid.at(f"/{field}", " ".join(error.messages)) from None

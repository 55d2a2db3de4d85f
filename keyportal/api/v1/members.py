"""The members of the team, read-only: operators change members."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, PageQuery, paginate
from keyportal.api.framework.parsing import NoQuery
from keyportal.api.framework.problems import NotFound
from keyportal.api.scopes import Scope
from keyportal.api.v1.types import RoleValue
from keyportal.teams.models import Membership

operations = Operations()


class Member(Struct):
    id: Annotated[int, Meta(description="The user's id. It never changes.")]
    username: str
    name: Annotated[str, Meta(description="The full name; may be empty.")]
    role: RoleValue
    is_active: bool
    key_count: int
    created_at: Annotated[datetime, Meta(description="When they joined the team.")]


def serialize(membership: Membership) -> Member:
    return Member(
        id=membership.user_id,
        username=membership.user.get_username(),
        name=membership.user.get_full_name(),
        role=membership.role,
        is_active=membership.user.is_active,
        key_count=membership.key_count,  # type: ignore[attr-defined]  # annotated by for_display
        created_at=membership.created_at,
    )


@operations.get("members", scope=Scope.MEMBERS_READ, query=PageQuery, response=Page[Member])
def list_members(request: Request[None, PageQuery]) -> Page[Member]:
    """List the members of the team."""
    return paginate(
        Membership.objects.for_team(request.caller.team).for_display(), request.query, serialize
    )


@operations.get("members/{username}", scope=Scope.MEMBERS_READ, response=Member, errors=(NotFound,))
def read_member(request: Request[None, NoQuery], username: str) -> Member:
    """Read one member."""
    members = Membership.objects.for_team(request.caller.team).for_display()
    membership = members.filter(user__username=username).first()
    if membership is None:
        raise NotFound
    return serialize(membership)

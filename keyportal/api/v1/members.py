"""Who is in the team. Operators change members, so this is only read."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, Paged, page
from keyportal.api.framework.parsing import NoQuery
from keyportal.api.framework.problems import NotFound
from keyportal.api.scopes import Scope
from keyportal.api.v1.types import RoleValue
from keyportal.teams.models import Membership

operations = Operations()


class Member(Struct):
    id: Annotated[int, Meta(description="The user's, the same for good, whatever the name.")]
    username: str
    name: Annotated[str, Meta(description="As the person is called; may be empty.")]
    role: RoleValue
    is_active: bool
    key_count: int
    created_at: Annotated[datetime, Meta(description="Since when they are in the team.")]


def told(membership: Membership) -> Member:
    return Member(
        id=membership.user_id,
        username=membership.user.get_username(),
        name=membership.user.get_full_name(),
        role=membership.role,
        is_active=membership.user.is_active,
        key_count=membership.key_count,  # type: ignore[attr-defined]  # annotated by for_display
        created_at=membership.created_at,
    )


@operations.get("members", scope=Scope.MEMBERS_READ, query=Paged, answer=Page[Member])
def list_members(asked: Request[None, Paged]) -> Page[Member]:
    """List the members of the team."""
    return page(Membership.objects.for_team(asked.caller.team).for_display(), asked.query, told)


@operations.get("members/{username}", scope=Scope.MEMBERS_READ, answer=Member, refuses=(NotFound,))
def read_member(asked: Request[None, NoQuery], username: str) -> Member:
    """Tell of one member."""
    members = Membership.objects.for_team(asked.caller.team).for_display()
    found = members.filter(user__username=username).first()
    if found is None:
        raise NotFound
    return told(found)

"""The members of the team: list and read them, change a role, remove one."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

from django.core.exceptions import PermissionDenied
from msgspec import Meta, Struct

from keyportal.api.framework.authentication import Caller
from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, PageQuery, paginate
from keyportal.api.framework.parsing import NoQuery
from keyportal.api.framework.problems import Conflict, NotFound, WeakRole
from keyportal.api.scopes import Scope
from keyportal.api.v1.types import RoleValue
from keyportal.teams.access import Outsider
from keyportal.teams.membership import changes
from keyportal.teams.models import Membership, Role

operations = Operations()


class Member(Struct):
    id: Annotated[int, Meta(description="The user's id. It never changes.")]
    username: str
    name: Annotated[str, Meta(description="The full name; may be empty.")]
    role: RoleValue
    is_active: bool
    key_count: int
    created_at: Annotated[datetime, Meta(description="When they joined the team.")]


class MemberChanges(Struct, forbid_unknown_fields=True):
    role: RoleValue


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


def get_membership(caller: Caller, username: str) -> Membership:
    """Raises `NotFound`, also for a user of another team."""
    rows = Membership.objects.for_team(caller.team).for_display()
    membership = rows.filter(user__username=username).first()
    if membership is None:
        raise NotFound
    return membership


@contextmanager
def rules_as_problems() -> Iterator[None]:
    """Raises a `Problem` in place of an exception of the rules for members."""
    try:
        yield
    except changes.Refused as refusal:
        raise Conflict(str(refusal.message)) from None
    except Outsider:
        raise NotFound from None
    except PermissionDenied as refusal:
        raise WeakRole(str(refusal)) from None


@operations.get("members", scope=Scope.MEMBERS_READ, query=PageQuery, response=Page[Member])
def list_members(request: Request[None, PageQuery]) -> Page[Member]:
    """List the members of the team."""
    return paginate(
        Membership.objects.for_team(request.caller.team).for_display(), request.query, serialize
    )


@operations.get("members/{username}", scope=Scope.MEMBERS_READ, response=Member, errors=(NotFound,))
def read_member(request: Request[None, NoQuery], username: str) -> Member:
    """Read one member."""
    return serialize(get_membership(request.caller, username))


@operations.patch(
    "members/{username}",
    scope=Scope.MEMBERS_WRITE,
    role=Role.ADMIN,
    body=MemberChanges,
    response=Member,
    errors=(NotFound, Conflict),
)
def change_member(request: Request[MemberChanges, NoQuery], username: str) -> Member:
    """Change the role of a member

    The change applies to the next request. Only the program of an owner makes owners and changes
    them. The last owner stays one: 409.
    """
    caller = request.caller
    membership = get_membership(caller, username)
    with rules_as_problems():
        role = Role(request.body.role)
        changes.change_role(caller.team, membership.user, role, actor=caller.user)
    return serialize(get_membership(caller, username))


@operations.delete(
    "members/{username}",
    scope=Scope.MEMBERS_WRITE,
    role=Role.ADMIN,
    errors=(NotFound, Conflict),
)
def remove_member(request: Request[None, NoQuery], username: str) -> None:
    """Remove a member

    Their API keys are refused from the next request on, and their management keys are deleted. To
    keep an API key, hand it over first, with `owner` of `PATCH keys/{id}`. Only the program of an
    owner removes owners. The last owner stays: 409.
    """
    caller = request.caller
    membership = get_membership(caller, username)
    with rules_as_problems():
        changes.remove(caller.team, membership.user, actor=caller.user)

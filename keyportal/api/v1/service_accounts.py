"""The team's service accounts: owners of API keys that no person is behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

from django.core.exceptions import ValidationError
from msgspec import Meta, Struct

from keyportal.api.framework.authentication import Caller
from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, PageQuery, paginate
from keyportal.api.framework.parsing import NoQuery
from keyportal.api.framework.problems import Conflict, FieldError, Invalid, NotFound
from keyportal.api.scopes import Scope
from keyportal.teams.models import Membership, MembershipQuerySet, Role, User
from keyportal.teams.service_accounts import changes
from keyportal.teams.service_accounts.changes import MAX_NAME_LENGTH

operations = Operations()
Contact = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=254,
        description="The e-mail address that gets the mails about its keys.",
        extra_json_schema={"format": "email"},
    ),
]


class ServiceAccount(Struct):
    id: Annotated[int, Meta(description="Its id as an owner. It never changes.")]
    name: Annotated[str, Meta(description="Its name in the team.")]
    username: Annotated[
        str, Meta(description="Its name as an owner of keys: the name, `@` and the team's slug.")
    ]
    contact: Contact
    key_count: int
    created_at: datetime


class NewServiceAccount(Struct, forbid_unknown_fields=True):
    name: Annotated[
        str,
        Meta(min_length=1, max_length=MAX_NAME_LENGTH, pattern="^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"),
    ]
    contact: Contact


class ContactChange(Struct, forbid_unknown_fields=True):
    contact: Contact


def serialize(membership: Membership) -> ServiceAccount:
    return ServiceAccount(
        id=membership.user_id,
        name=membership.user.get_username().partition("@")[0],
        username=membership.user.get_username(),
        contact=membership.user.contact,
        key_count=membership.key_count,  # type: ignore[attr-defined]  # annotated by for_display
        created_at=membership.created_at,
    )


def _memberships(caller: Caller) -> MembershipQuerySet:
    memberships = Membership.objects.for_team(caller.team).for_display()
    return memberships.filter(user__service_team=caller.team)


def find_service_account(caller: Caller, username: str) -> User | None:
    """None also for a person, and for one of another team."""
    return changes.service_accounts(caller.team).filter(username=username).first()


def _membership(caller: Caller, name: str) -> Membership:
    """Raises `NotFound`."""
    username = changes.username(name, caller.team)
    membership = _memberships(caller).filter(user__username=username).first()
    if membership is None:
        raise NotFound
    return membership


@operations.get(
    "service-accounts",
    scope=Scope.MEMBERS_READ,
    query=PageQuery,
    response=Page[ServiceAccount],
)
def list_service_accounts(request: Request[None, PageQuery]) -> Page[ServiceAccount]:
    """List the service accounts of the team."""
    return paginate(_memberships(request.caller), request.query, serialize)


@operations.get(
    "service-accounts/{account}",
    scope=Scope.MEMBERS_READ,
    response=ServiceAccount,
    errors=(NotFound,),
)
def read_service_account(request: Request[None, NoQuery], account: str) -> ServiceAccount:
    """Read one service account."""
    return serialize(_membership(request.caller, account))


@operations.post(
    "service-accounts",
    scope=Scope.SERVICE_ACCOUNTS_WRITE,
    role=Role.ADMIN,
    body=NewServiceAccount,
    response=ServiceAccount,
    status=201,
    errors=(Conflict,),
)
def create_service_account(request: Request[NewServiceAccount, NoQuery]) -> ServiceAccount:
    """Create a service account

    Then create API keys with its username as `owner`, or hand keys over to it.
    """
    caller, body = request.caller, request.body
    username = changes.username(body.name, caller.team)
    if _memberships(caller).filter(user__username=username).exists():
        raise Conflict("The team has a service account with this name.")
    with _errors_as_problems():
        changes.create(caller.team, body.name, body.contact, actor=caller.user)
    return serialize(_membership(caller, body.name))


@operations.patch(
    "service-accounts/{account}",
    scope=Scope.SERVICE_ACCOUNTS_WRITE,
    role=Role.ADMIN,
    body=ContactChange,
    response=ServiceAccount,
    errors=(NotFound,),
)
def change_service_account(
    request: Request[ContactChange, NoQuery], account: str
) -> ServiceAccount:
    """Change the contact of a service account."""
    caller = request.caller
    user = _membership(caller, account).user
    with _errors_as_problems():
        changes.change_contact(user, request.body.contact, actor=caller.user)
    return serialize(_membership(caller, account))


@operations.delete(
    "service-accounts/{account}",
    scope=Scope.SERVICE_ACCOUNTS_WRITE,
    role=Role.ADMIN,
    errors=(NotFound, Conflict),
)
def delete_service_account(request: Request[None, NoQuery], account: str) -> None:
    """Delete a service account

    One that owns keys gets 409: hand them over or delete them first.
    """
    try:
        changes.delete(_membership(request.caller, account).user, actor=request.caller.user)
    except changes.StillOwnsKeys as refusal:
        raise Conflict(str(refusal)) from None


@contextmanager
def _errors_as_problems() -> Iterator[None]:
    """Raises `Invalid` in place of an exception of the rules for users."""
    try:
        yield
    except ValidationError as error:
        pointers = {"username": "/name", "contact": "/contact"}
        raise Invalid(
            errors=[
                FieldError(" ".join(messages), pointer=pointers.get(field, ""))
                for field, messages in error.message_dict.items()
            ]
        ) from None

"""Invitations to the team: list, create and revoke them."""

from datetime import datetime
from typing import Annotated

from django.core.exceptions import ValidationError
from msgspec import Meta, Struct

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, PageQuery, paginate
from keyportal.api.framework.parsing import NoQuery
from keyportal.api.framework.problems import FieldError, Invalid, NotFound, TooManyRequests
from keyportal.api.scopes import Scope
from keyportal.api.v1.members import rules_as_problems
from keyportal.api.v1.types import Email, Note, RoleValue
from keyportal.keys.keystring import require_no_key
from keyportal.people.emails import is_mail_set_up
from keyportal.people.forms import clean_emails
from keyportal.people.invitations import TooManyInvitations, invite, revoke
from keyportal.people.links import url_for
from keyportal.people.models import Invitation
from keyportal.teams.models import Role

operations = Operations()


class InvitationBody(Struct):
    id: int
    email: str
    role: RoleValue
    note: str
    invited_by: Annotated[str | None, Meta(description="A username. Null: an operator.")]
    created_at: datetime
    expires_at: datetime


class CreatedInvitation(InvitationBody):
    url: Annotated[
        str | None,
        Meta(description="The link, to pass on, if no mail is set up. Null: it was mailed."),
    ]


class NewInvitation(Struct, forbid_unknown_fields=True):
    email: Email
    role: RoleValue = Role.MEMBER.value
    note: Note = ""


def serialize(invitation: Invitation) -> InvitationBody:
    inviter = invitation.invited_by
    return InvitationBody(
        id=invitation.pk,
        email=invitation.email,
        role=invitation.role,
        note=invitation.note,
        invited_by=inviter.get_username() if inviter else None,
        created_at=invitation.created_at,
        expires_at=invitation.expires_at,
    )


@operations.get(
    "invitations",
    scope=Scope.MEMBERS_READ,
    role=Role.ADMIN,
    query=PageQuery,
    response=Page[InvitationBody],
)
def list_invitations(request: Request[None, PageQuery]) -> Page[InvitationBody]:
    """List the pending invitations, also those that have expired."""
    rows = Invitation.objects.for_team(request.caller.team).select_related("invited_by")
    return paginate(rows, request.query, serialize)


@operations.post(
    "invitations",
    scope=Scope.MEMBERS_WRITE,
    role=Role.ADMIN,
    body=NewInvitation,
    response=CreatedInvitation,
    status=201,
    errors=(TooManyRequests,),
)
def create_invitation(request: Request[NewInvitation, NoQuery]) -> CreatedInvitation:
    """Invite somebody by e-mail

    The link is valid for seven days, works once, and only for this address. An address that is
    invited already gets a new link, and the former one ends. The response is the same whether the
    address has an account or not.
    """
    caller, body = request.caller, request.body
    emails = _validated(body)
    try:
        with rules_as_problems():
            (invitation,) = invite(
                caller.team,
                emails,
                Role(body.role),
                note=body.note,
                actor=caller.user,
                address=caller.address,
            )
    except TooManyInvitations as refusal:
        raise TooManyRequests(str(refusal), 3600) from None
    url = None if is_mail_set_up() else url_for(invitation, is_mailed=False)
    return CreatedInvitation(
        **{name: getattr(serialize(invitation), name) for name in InvitationBody.__struct_fields__},
        url=url,
    )


def _validated(body: NewInvitation) -> list[str]:
    """The one address. Raises `Invalid`."""
    errors = []
    emails: list[str] = []
    try:
        emails = clean_emails(body.email)
    except ValidationError as error:
        errors.append(FieldError(" ".join(error.messages), pointer="/email"))
    try:
        require_no_key(body.note)
    except ValidationError as error:
        errors.append(FieldError(" ".join(error.messages), pointer="/note"))
    if errors:
        raise Invalid(errors=errors)
    return emails


@operations.delete(
    "invitations/{invitation}", scope=Scope.MEMBERS_WRITE, role=Role.ADMIN, errors=(NotFound,)
)
def revoke_invitation(request: Request[None, NoQuery], invitation: str) -> None:
    """Revoke an invitation

    Its link stops working at once.
    """
    caller = request.caller
    row = Invitation.objects.for_team(caller.team).filter(pk=int(invitation)).first()
    if row is None:
        raise NotFound
    with rules_as_problems():
        revoke(row, actor=caller.user, address=caller.address)

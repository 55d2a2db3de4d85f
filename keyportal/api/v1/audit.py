"""The team's audit log, for programs of its admins."""

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, PageQuery, paginate
from keyportal.api.scopes import Scope
from keyportal.api.v1.types import ActionValue, PublicId
from keyportal.audit.models import AuditEvent
from keyportal.teams.models import Role

operations = Operations()


class Event(Struct):
    created_at: datetime
    action: ActionValue
    actor_id: Annotated[
        int | None,
        Meta(
            description="The user's id, which is never reused; null if no user was signed in or a "
            "command did it."
        ),
    ]
    actor: Annotated[
        str, Meta(description="The username at the time; empty if `actor_id` is null.")
    ]
    via: Annotated[str, Meta(description="The management key that was used, or empty.")]
    target: str
    key_id: Annotated[
        str, Meta(description="The id of the API key that the event is about, or empty.")
    ]
    address: str | None


class EventQuery(PageQuery, forbid_unknown_fields=True):
    action: ActionValue | UnsetType = UNSET
    key_id: PublicId | UnsetType = UNSET


def serialize(event: AuditEvent) -> Event:
    return Event(
        created_at=event.created_at,
        action=event.action,
        actor_id=event.actor_id,
        actor=event.actor,
        via=event.via,
        target=event.target,
        key_id=event.public_id,
        address=event.address,
    )


@operations.get(
    "audit", scope=Scope.AUDIT_READ, role=Role.ADMIN, query=EventQuery, response=Page[Event]
)
def list_events(request: Request[None, EventQuery]) -> Page[Event]:
    """List the events in the team's audit log, newest first

    The owner of the management key must be an admin of the team.
    """
    events = AuditEvent.objects.for_team(request.caller.team)
    if request.query.action is not UNSET:
        events = events.with_action(request.query.action)
    if request.query.key_id is not UNSET:
        events = events.for_key(request.query.key_id)
    return paginate(events, request.query, serialize)

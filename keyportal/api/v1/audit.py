"""What people and programs did in the team, for those whom the portal would show it."""

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, Paged, page
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
        Meta(description="The user's id, never used again; null: nobody signed in, or a command."),
    ]
    actor: Annotated[str, Meta(description="The user's name at the time; empty: as for null.")]
    via: Annotated[str, Meta(description="The management key it was done with; empty: none.")]
    target: str
    key: Annotated[str, Meta(description="The id of the API key it tells of, or empty.")]
    address: str | None


class EventQuery(Paged, forbid_unknown_fields=True):
    action: ActionValue | UnsetType = UNSET
    key: PublicId | UnsetType = UNSET


def told(event: AuditEvent) -> Event:
    return Event(
        created_at=event.created_at,
        action=event.action,
        actor_id=event.actor_id,
        actor=event.actor,
        via=event.via,
        target=event.target,
        key=event.public_id,
        address=event.address,
    )


@operations.get(
    "audit", scope=Scope.AUDIT_READ, role=Role.ADMIN, query=EventQuery, answer=Page[Event]
)
def list_events(asked: Request[None, EventQuery]) -> Page[Event]:
    """List what was done in the team, newest first

    Its owner must be an admin of the team.
    """
    events = AuditEvent.objects.for_team(asked.caller.team)
    if asked.query.action is not UNSET:
        events = events.with_action(asked.query.action)
    if asked.query.key is not UNSET:
        events = events.for_key(asked.query.key)
    return page(events, asked.query, told)

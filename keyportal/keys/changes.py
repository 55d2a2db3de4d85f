"""What can be done to a key that lives on: each act under the lock on its row, with an audit row
of the old and the new values, and in effect for the next request on every worker.

All raise `ApiKey.DoesNotExist` when the key was deleted meanwhile; its secrets' acts are in
`rotation`, and its limits' in `limits`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.exceptions import ManagedByAdmin, NameTaken, NotAMember, PolicyViolation
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Permissions
from keyportal.keys.rules.policy import ownership_violations, violations
from keyportal.teams.models import Membership, Role, Team, User


class Unset(Enum):
    """Stands for "leave it as it is", where None says something else."""

    UNSET = "unset"


UNSET = Unset.UNSET


@dataclass(frozen=True)
class Changes:
    """What is to be different about a key; what is unset stays."""

    name: str | Unset = UNSET
    description: str | Unset = UNSET
    tags: Sequence[str] | Unset = UNSET
    permissions: Permissions | Unset = UNSET
    expires_at: datetime | Unset | None = UNSET
    """None: never."""

    def values(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not UNSET}


@contextmanager
def lock_key(key: ApiKey) -> Iterator[ApiKey]:
    """The key as it is now, in a transaction in which nobody else changes or deletes it.

    The team comes first, as when a key is made: two who took the two the other way round would
    wait for each other.
    """
    with transaction.atomic():
        # A team that is gone has no keys, and that is then what is told.
        Team.objects.select_for_update(no_key=True).filter(pk=key.team_id).first()
        yield (
            ApiKey.objects.select_related("team")
            .select_for_update(no_key=True, of=("self",))
            .get(pk=key.pk)
        )


def require_unmanaged(key: ApiKey, actor: User | None) -> None:
    """Of a locked key, before its permissions, limits, expiry or owner change, or it is enabled.

    Attack: an owner sends a form that was opened before an admin took over the key. Raises
    `Managed`, unless the actor is an admin of the team or an operator.
    """
    if key.is_managed and not _is_admin(actor, key.team):
        raise ManagedByAdmin


def _is_admin(actor: User | None, team: Team) -> bool:
    """Read from the database, as a role may have changed; a command has no actor."""
    if actor is None:
        return True
    membership = Membership.objects.filter(team=team, user=actor).first()
    return membership is not None and membership.is_at_least(Role.ADMIN)


def manage_unless_own(key: ApiKey, *, actor: User | None, address: str | None) -> None:
    """Of a locked key that was narrowed or disabled: where that was not by its owner, who could
    undo it otherwise, an admin manages the key from now on."""
    is_owner = actor is not None and actor.pk == key.owner_id
    if not (key.is_managed or is_owner):
        save_managed(key, True, actor=actor, address=address)


def save_managed(key: ApiKey, is_managed: bool, *, actor: User | None, address: str | None) -> None:
    """Of a locked key."""
    key.is_managed = is_managed
    action = Action.KEY_MANAGED if is_managed else Action.KEY_UNMANAGED
    _save(key, action, ["is_managed"], actor, address)


def set_managed(
    key: ApiKey, is_managed: bool, *, actor: User | None, address: str | None = None
) -> ApiKey:
    """Raises `Managed` for anyone but the team's admins and operators."""
    with lock_key(key) as row:
        if not _is_admin(actor, row.team):
            raise ManagedByAdmin
        if row.is_managed != is_managed:
            save_managed(row, is_managed, actor=actor, address=address)
    return row


def change_key(
    key: ApiKey, changes: Changes, *, actor: User | None, address: str | None = None
) -> ApiKey:
    """Give the key these properties, and return it as it then is.

    Raises `NameTaken`, `PolicyViolation` where a change breaks the policy, or `Managed` where the
    actor may not change the permissions or the expiry.
    """
    with lock_key(key) as row:
        former_name, permissions, expires_at = str(row), row.permissions, row.expires_at
        former = {column: getattr(row, column) for column in _CHANGEABLE_COLUMNS}
        phrases = [
            text for name, value in changes.values().items() for text in _apply(row, name, value)
        ]
        columns = [column for column, value in former.items() if getattr(row, column) != value]
        if not columns:
            return row
        if (row.permissions, row.expires_at) != (permissions, expires_at):
            require_unmanaged(row, actor)
        if ApiKey.objects.for_team(row.team).filter(name=row.name).exclude(pk=row.pk).exists():
            raise NameTaken
        if broken := violations(row.team.policy, row, columns):
            raise PolicyViolation(broken)
        row.save(update_fields=columns)
        AuditEvent.objects.record_changes(
            Action.KEY_CHANGED,
            key=row,
            target=former_name,
            changes=phrases,
            actor=actor,
            team=row.team,
            address=address,
        )
        if not row.permissions.covers(permissions) or is_earlier(row.expires_at, expires_at):
            manage_unless_own(row, actor=actor, address=address)
    return row


def is_earlier(end: datetime | None, other: datetime | None) -> bool:
    """None is never."""
    return end is not None and (other is None or end < other)


_CHANGEABLE_COLUMNS = (
    "name",
    "description",
    "tags",
    "allowed_models",
    "endpoints",
    "networks",
    "expires_at",
    "expiry_set_at",
)


def _apply(key: ApiKey, name: str, value: Any) -> list[str]:
    """Set it, and say what is different now."""
    former = getattr(key, name)
    value = list(value) if name == "tags" else value
    setattr(key, name, value)
    if former == value:
        return []
    if isinstance(value, Permissions):
        return value.changes_from(former)
    if name == "expires_at":
        key.expiry_set_at = timezone.now()
    return [change_text(name, former, value)]


def change_text(name: str, former: Any, value: Any) -> str:
    """For the audit, such as `Name: test → ci-test`."""
    label = name.replace("_at", "").replace("_", " ").capitalize()
    return f"{label}: {_format_value(former)} → {_format_value(value)}"


def _format_value(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return ", ".join(value) if isinstance(value, list) and value else str(value or "none")


def disable(key: ApiKey, *, actor: User | None, address: str | None = None) -> ApiKey:
    """Refuse the key until it is enabled again, with the same answer as a deleted one.

    That goes beyond what a report has disabled, which works again once it is rotated. Somebody's
    key that an admin or operator disables is managed from then on, also where its owner had
    disabled it.
    """
    with lock_key(key) as row:
        by = ApiKey.DisabledBy
        is_owners = actor is not None and actor.pk == row.owner_id and row.disabled_by != by.ADMIN
        disabled_by = by.OWNER if is_owners else by.ADMIN
        if row.disabled_by != disabled_by:
            if row.disabled_by in ("", by.LEAK):
                row.disabled_at = timezone.now()
            row.disabled_by = disabled_by
            _save(row, Action.KEY_DISABLED, ["disabled_at", "disabled_by"], actor, address)
        manage_unless_own(row, actor=actor, address=address)
    return row


def enable(key: ApiKey, *, actor: User | None, address: str | None = None) -> ApiKey:
    """Let it in again. Raises `Managed`."""
    with lock_key(key) as row:
        require_unmanaged(row, actor)
        if row.disabled_at is not None:
            row.disabled_at, row.disabled_by = None, ""
            _save(row, Action.KEY_ENABLED, ["disabled_at", "disabled_by"], actor, address)
    return row


def can_own_key(team: Team, user: User, *, among: QuerySet[Membership] | None = None) -> bool:
    """Whether a key of the team would work that is theirs."""
    memberships = Membership.objects.all() if among is None else among
    found = memberships.filter(team=team, user=user, user__is_active=True).first()
    return found is not None and found.is_at_least(Role.MEMBER)


def hand_over(key: ApiKey, to: User, *, actor: User | None, address: str | None = None) -> ApiKey:
    """Make somebody else its owner. A managed key stays managed.

    Raises `Managed`, `NotAMember`, or `PolicyViolation` if they have enough.
    """
    with lock_key(key) as row:
        if row.owner_id == to.pk:
            return row
        require_unmanaged(row, actor)
        # Locked, so that whoever leaves the team at this moment leaves before it or after it.
        if not can_own_key(row.team, to, among=Membership.objects.select_for_update(no_key=True)):
            raise NotAMember(to.get_username())
        if broken := ownership_violations(
            row.team.policy, None, partial(ApiKey.objects.count_owned, row.team, to.pk)
        ):
            raise PolicyViolation(broken)
        text = f"Owner: {row.owner.get_username()} → {to.get_username()}"
        row.owner = to
        row.save(update_fields=["owner"])
        AuditEvent.objects.record_changes(
            Action.KEY_HANDED_OVER,
            key=row,
            changes=[text],
            actor=actor,
            team=row.team,
            address=address,
        )
    return row


def _save(
    key: ApiKey,
    action: Action,
    columns: list[str],
    actor: User | None,
    address: str | None,
) -> None:
    key.save(update_fields=columns)
    AuditEvent.objects.record(action, key=key, actor=actor, team=key.team, address=address)

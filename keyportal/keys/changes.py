"""Change a key. Every change locks the key's row, writes an audit row with the old and new values,
and takes effect with the next request on every worker.

All functions raise what `lock_key` raises: `ApiKey.DoesNotExist` if the key was deleted in the
meantime, and `PermissionDenied` or `Outsider` if the actor may not, or no longer, change it.
`rotation` changes secrets, and `limits` changes limits.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.exceptions import (
    EndsWithSession,
    LeakNotAccepted,
    ManagedByAdmin,
    NameTaken,
    PolicyViolation,
)
from keyportal.keys.models import DETAILS, ApiKey, KeyDetails, lock_key, lock_owner
from keyportal.keys.rules.permissions import Permissions
from keyportal.keys.rules.policy import ownership_violations, violations
from keyportal.teams.access import Actor, is_admin, require_change, require_end
from keyportal.teams.models import User


class Changes(KeyDetails, total=False):
    """New values of a key. What is left out stays as it is."""

    name: str
    permissions: Permissions
    expires_at: datetime | None
    """None: the key never expires."""


EDITABLE = ("name", *DETAILS)
"""The columns that the owner of a managed key can change too."""


def require_unmanaged(key: ApiKey, actor: Actor) -> None:
    """Call it before a locked key is enabled or its permissions, limits, expiry or owner change.

    Attack: an owner submits a form that was opened before an admin began to manage the key. Raises
    `ManagedByAdmin`, unless the actor is an admin of the team or an operator.
    """
    if key.is_managed and not is_admin(actor, key.team):
        raise ManagedByAdmin


def manage_unless_own(key: ApiKey, *, actor: Actor, address: str | None) -> None:
    """Make a locked key managed after it was restricted or disabled, unless its owner did that.

    Otherwise the owner could undo the restriction.
    """
    is_owner = actor is not None and actor.pk == key.owner_id
    if not (key.is_managed or is_owner):
        save_managed(key, True, actor=actor, address=address)


def save_managed(key: ApiKey, is_managed: bool, *, actor: Actor, address: str | None) -> None:
    """`key` is locked."""
    key.is_managed = is_managed
    action = Action.KEY_MANAGED if is_managed else Action.KEY_UNMANAGED
    _save(key, action, ["is_managed"], actor, address)


def set_managed(
    key: ApiKey, is_managed: bool, *, actor: Actor, address: str | None = None
) -> ApiKey:
    """Raises `ManagedByAdmin` unless the actor is an admin of the team or an operator."""
    with lock_key(key, actor=actor, right=require_change) as row:
        if not is_admin(actor, row.team):
            raise ManagedByAdmin
        if row.is_managed != is_managed:
            save_managed(row, is_managed, actor=actor, address=address)
    return row


def change_key(
    key: ApiKey, changes: Changes, *, actor: Actor, address: str | None = None
) -> ApiKey:
    """Change the key and return it.

    Raises `NameTaken`, `PolicyViolation` if a change breaks the policy, or `ManagedByAdmin` if the
    actor may not change the permissions or the expiry.
    """
    with lock_key(key, actor=actor, right=require_change) as row:
        former_name, permissions, expires_at = str(row), row.permissions, row.expires_at
        former = {column: getattr(row, column) for column in _CHANGEABLE_COLUMNS}
        values: Mapping[str, object] = changes
        texts = [
            text
            for name in (*EDITABLE, "permissions", "expires_at")
            if name in values
            for text in _apply(row, name, values[name])
        ]
        columns = [column for column, value in former.items() if getattr(row, column) != value]
        if not columns:
            return row
        if (row.permissions, row.expires_at) != (permissions, expires_at):
            require_unmanaged(row, actor)
        if row.expires_at != expires_at:
            _require_no_session(row)
        if ApiKey.objects.for_team(row.team).filter(name=row.name).exclude(pk=row.pk).exists():
            raise NameTaken
        if broken := violations(row.team.policy, row, columns):
            raise PolicyViolation(broken)
        row.save(update_fields=columns)
        AuditEvent.objects.record_changes(
            Action.KEY_CHANGED,
            key=row,
            target=former_name,
            changes=texts,
            actor=actor,
            team=row.team,
            address=address,
        )
        if not row.permissions.covers(permissions) or is_earlier(row.expires_at, expires_at):
            manage_unless_own(row, actor=actor, address=address)
    return row


def _require_no_session(key: ApiKey) -> None:
    """Attack: a program that was let in for a session makes itself a key without an end."""
    if key.is_of_program:
        raise EndsWithSession


def is_earlier(expires_at: datetime | None, other: datetime | None) -> bool:
    """None is never."""
    return expires_at is not None and (other is None or expires_at < other)


# Permissions are three columns, and `_apply` sets `expiry_set_at`.
_CHANGEABLE_COLUMNS = (
    *EDITABLE,
    "allowed_models",
    "endpoints",
    "allowed_networks",
    "expires_at",
    "expiry_set_at",
)


def _apply(key: ApiKey, name: str, value: Any) -> list[str]:
    """Set one property. Return the texts for the audit, empty if the value is the same."""
    former = getattr(key, name)
    value = list(value) if name == "tags" else value
    setattr(key, name, value)
    if former == value:
        return []
    if isinstance(value, Permissions):
        return value.changes_from(former)
    if name == "expires_at":
        key.expiry_set_at = key.read_at
    return [change_text(name, former, value)]


def change_text(name: str, former: Any, value: Any) -> str:
    """A text for the audit, such as `Name: test → ci-test`."""
    label = name.replace("_at", "").replace("_", " ").capitalize()
    return f"{label}: {_format_value(former)} → {_format_value(value)}"


def _format_value(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return ", ".join(value) if isinstance(value, list) and value else str(value or "none")


def disable(key: ApiKey, *, actor: Actor, address: str | None = None) -> ApiKey:
    """Refuse the key until it is enabled again, with the same response as for a deleted key.

    A key that a leak report disabled would work again after a rotation; now it does not. If an
    admin or operator disables a key of another person, it becomes managed, even if its owner had
    disabled it before.
    """
    with lock_key(key, actor=actor, right=require_end) as row:
        disable_locked(row, actor=actor, address=address)
    return row


def disable_locked(key: ApiKey, *, actor: Actor, address: str | None) -> None:
    """`key` is locked."""
    by = ApiKey.DisabledBy
    is_owner = actor is not None and actor.pk == key.owner_id
    disabled_by = by.OWNER if is_owner and key.disabled_by != by.ADMIN else by.ADMIN
    if key.disabled_by != disabled_by:
        if key.disabled_by in ("", by.LEAK):
            key.disabled_at = timezone.now()
        key.disabled_by = disabled_by
        _save(key, Action.KEY_DISABLED, ["disabled_at", "disabled_by"], actor, address)
    manage_unless_own(key, actor=actor, address=address)


def enable(
    key: ApiKey,
    *,
    actor: Actor,
    address: str | None = None,
    accept_leak: bool = False,
) -> ApiKey:
    """Accept the key again.

    Raises `ManagedByAdmin`, or without `accept_leak` `LeakNotAccepted` if one of its secrets was
    reported as leaked.
    """
    with lock_key(key, actor=actor, right=require_change) as row:
        require_unmanaged(row, actor)
        if row.disabled_at is not None:
            if row.reported_at is not None and not accept_leak:
                raise LeakNotAccepted
            row.disabled_at, row.disabled_by = None, ""
            _save(row, Action.KEY_ENABLED, ["disabled_at", "disabled_by"], actor, address)
    return row


def hand_over(key: ApiKey, to: User, *, actor: Actor, address: str | None = None) -> ApiKey:
    """Change the owner. A managed key stays managed.

    Raises `ManagedByAdmin`, `NotAMember`, or `PolicyViolation` if the new owner has as many keys as
    the policy allows, or may own none.
    """
    with lock_key(key, actor=actor, right=require_change) as row:
        if row.owner_id == to.pk:
            return row
        require_unmanaged(row, actor)
        _require_no_session(row)
        lock_owner(row.team, to)
        text = f"Owner: {row.owner.get_username()} → {to.get_username()}"
        row.owner = to
        count_keys = partial(ApiKey.objects.count_owned, row.team, to.pk)
        if broken := [
            *ownership_violations(row.team.policy, None, count_keys),
            *violations(row.team.policy, row, ("owner",)),
        ]:
            raise PolicyViolation(broken)
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
    actor: Actor,
    address: str | None,
) -> None:
    key.save(update_fields=columns)
    AuditEvent.objects.record(action, key=key, actor=actor, team=key.team, address=address)

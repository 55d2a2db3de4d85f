"""What can be done to a key that lives on: each act under the lock on its row, with an audit row
that tells the old and the new, and in effect for the next request on every worker.

All raise `ApiKey.DoesNotExist` when the key was deleted meanwhile; its secrets' acts are in
`rotation`, and its limits' in `limits`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from keyportal.activity.models import Action, AuditEvent
from keyportal.keys.grants import CEILINGS, binds, entrust, is_bound, settle
from keyportal.keys.models import ApiKey
from keyportal.keys.permissions import Permissions
from keyportal.keys.policy import breaches, breaches_by_owning
from keyportal.keys.refusals import Held, NameTaken, NotAMember, PolicyBroken
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

    def given(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not UNSET}


@contextmanager
def locked(key: ApiKey) -> Iterator[ApiKey]:
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


def change(
    key: ApiKey, changes: Changes, *, actor: User | None, address: str | None = None
) -> ApiKey:
    """Give the key these properties, and return it as it then is.

    What an admin gives somebody's key is the most that its owner may give it from then on, also
    where it had as much before. Raises `NameTaken`; `BeyondGranted` or `EndsTooLate` for more
    than that; or `PolicyBroken` where a change breaks the policy.
    """
    with locked(key) as found:
        former_name = str(found)
        former = {column: getattr(found, column) for column in _COLUMNS}
        told = [
            phrase for name, value in changes.given().items() for phrase in _set(found, name, value)
        ]
        settle(found, changes.given(), actor)
        columns = [column for column, value in former.items() if getattr(found, column) != value]
        if not columns:
            return found
        twins = ApiKey.objects.of(found.team).filter(name=found.name).exclude(pk=found.pk)
        if twins.exists():
            raise NameTaken
        if broken := breaches(found.team.policy, found, columns):
            raise PolicyBroken(broken)
        found.save(update_fields=columns)
        AuditEvent.objects.record_changes(
            Action.KEY_CHANGED,
            key=found,
            target=former_name,
            changes=told or [AT_MOST],
            actor=actor,
            team=found.team,
            address=address,
        )
    return found


# Told where a key has what it had, and that is now the most that it may have.
AT_MOST = "Its owner may give it no more than this"
_COLUMNS = [
    "name",
    "description",
    "tags",
    "allowed_models",
    "endpoints",
    "networks",
    "expires_at",
    "expiry_set_at",
    *CEILINGS.values(),
]


def _set(key: ApiKey, name: str, value: Any) -> list[str]:
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
    return [phrase(name, former, value)]


def phrase(name: str, former: Any, value: Any) -> str:
    """For the audit, such as `Name: test → ci-test`."""
    label = name.replace("_at", "").replace("_", " ").capitalize()
    return f"{label}: {_in_words(former)} → {_in_words(value)}"


def _in_words(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return ", ".join(value) if isinstance(value, list) and value else str(value or "none")


_DISABLING = ["disabled_at", "disabled_by", "is_held"]


def disable(key: ApiKey, *, actor: User | None, address: str | None = None) -> ApiKey:
    """Refuse the key until it is enabled again, with the same answer as a deleted one.

    That goes beyond what a report has disabled, which works again once it is rotated; and what an
    admin or operator disables is held, also where its owner had disabled it.
    """
    with locked(key) as found:
        is_held = found.is_held or binds(actor, found)
        disabled_by = ApiKey.DisabledBy.ADMIN if is_held else ApiKey.DisabledBy.OWNER
        if found.disabled_by == disabled_by:
            return found
        if found.disabled_by in ("", ApiKey.DisabledBy.LEAK):
            found.disabled_at = timezone.now()
        found.disabled_by, found.is_held = disabled_by, is_held
        _save(found, Action.KEY_DISABLED, _DISABLING, actor, address)
    return found


def enable(key: ApiKey, *, actor: User | None, address: str | None = None) -> ApiKey:
    """Let it in again. Raises `Held` where somebody disabled it whose word binds the actor."""
    with locked(key) as found:
        if found.is_held and is_bound(actor, found.team):
            raise Held
        if found.disabled_at is not None:
            found.disabled_at, found.disabled_by, found.is_held = None, "", False
            _save(found, Action.KEY_ENABLED, _DISABLING, actor, address)
    return found


def may_own(team: Team, user: User, *, among: QuerySet[Membership] | None = None) -> bool:
    """Whether a key of the team would work that is theirs."""
    memberships = Membership.objects.all() if among is None else among
    found = memberships.filter(team=team, user=user, user__is_active=True).first()
    return found is not None and found.is_at_least(Role.MEMBER)


def hand_over(key: ApiKey, to: User, *, actor: User | None, address: str | None = None) -> ApiKey:
    """Make somebody else its owner, who gets no more of an admin's key than that has.

    Raises `NotAMember`, or `PolicyBroken` if they have enough.
    """
    with locked(key) as found:
        if found.owner_id == to.pk:
            return found
        # Locked, so that whoever leaves the team at this moment leaves before it or after it.
        if not may_own(found.team, to, among=Membership.objects.select_for_update(no_key=True)):
            raise NotAMember(to.get_username())
        if broken := breaches_by_owning(found.team, to.pk, None):
            raise PolicyBroken(broken)
        told = f"Owner: {found.owner.get_username()} → {to.get_username()}"
        if not is_bound(found.owner, found.team):
            entrust(found)
        found.owner = to
        found.save(update_fields=["owner", "disabled_by", "is_held", *CEILINGS.values()])
        AuditEvent.objects.record_changes(
            Action.KEY_HANDED_OVER,
            key=found,
            changes=[told],
            actor=actor,
            team=found.team,
            address=address,
        )
    return found


def _save(
    key: ApiKey,
    action: Action,
    columns: list[str],
    actor: User | None,
    address: str | None,
) -> None:
    key.save(update_fields=columns)
    AuditEvent.objects.record(action, key=key, actor=actor, team=key.team, address=address)

"""What an admin of the team, or an operator, takes from somebody's key: its owner may take further,
but not give back.

Judged under the lock on the key's row, and not in a form: an admin may take it while the owner
types. Limits follow the same rule, in `limits`.
"""

from collections.abc import Container, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from keyportal.keys.permissions import EVERYTHING
from keyportal.keys.refusals import BeyondGranted, EndsTooLate, KeyRefused
from keyportal.teams.models import Membership, Role, Team, User

if TYPE_CHECKING:
    from keyportal.keys.models import ApiKey

CEILINGS = {"permissions": "granted_permissions", "expires_at": "granted_expires_at"}
"""What is granted, and the column that keeps the most of it."""


def is_bound(actor: User | None, team: Team) -> bool:
    """By what was taken: all but the team's admins, and operators, whose commands have no actor."""
    if actor is None:
        return False
    found = Membership.objects.filter(team=team, user=actor).first()
    return found is None or not found.is_at_least(Role.ADMIN)


def binds(actor: User | None, key: "ApiKey") -> bool:
    """Whether the key's owner can't undo what this person does to it."""
    is_owner = actor is not None and actor.pk == key.owner_id
    return not is_owner and not is_bound(actor, key.team)


def grant(key: "ApiKey", given: Container[str]) -> None:
    """Of these, what the key has is the most that its owner may give it from now on."""
    if "permissions" in given:
        key.granted_permissions = None if key.permissions == EVERYTHING else key.permissions
    if "expires_at" in given:
        key.granted_expires_at = key.expires_at


def settle(key: "ApiKey", given: Container[str], actor: User | None) -> None:
    """The actor has just given the key these: that is granted, or is within what was.

    An owner who is an admin lifts what they go beyond. Raises `BeyondGranted` or `EndsTooLate` for
    one who is bound.
    """
    if not any(name in given for name in CEILINGS):
        return
    if binds(actor, key):
        grant(key, given)
        return
    for name, refusal in _beyond(key, given):
        if is_bound(actor, key.team):
            raise refusal
        setattr(key, CEILINGS[name], None)


def _beyond(key: "ApiKey", given: Container[str]) -> Iterator[tuple[str, KeyRefused]]:
    """What the key has beyond what was granted, and how that is refused."""
    most, latest = key.granted_permissions, key.granted_expires_at
    if "permissions" in given and most is not None and not most.covers(key.permissions):
        yield "permissions", BeyondGranted()
    if "expires_at" in given and latest is not None and _is_later(key.expires_at, latest):
        yield "expires_at", EndsTooLate(latest)


def _is_later(end: datetime | None, other: datetime) -> bool:
    """None is never, which is later than any."""
    return end is None or end > other


def entrust(key: "ApiKey") -> None:
    """An admin's own key, which somebody else is to have: as it was left, and no more."""
    grant(key, CEILINGS)
    if key.disabled_by == key.DisabledBy.OWNER:
        key.disabled_by, key.is_held = key.DisabledBy.ADMIN, True

"""Changing how much may be used: of one key by its owner or an admin, of all new keys by an admin.

Both are judged under the lock on the row, and not in a form: an admin may lower the limits of new
keys, or take over a key, while its owner types.
"""

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.changes import lock_key, manage_unless_own, require_unmanaged
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.policy import save_team_rule
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Role, Team


class AboveCeiling(Exception):
    """Nothing was changed; `names` are of the limits that are too high."""

    def __init__(self, names: list[str], ceiling: Limits) -> None:
        super().__init__(f"Above what is allowed: {', '.join(names)}.")
        self.errors = {name: f"At most {getattr(ceiling, name)} here." for name in names}


def set_key_limits(
    key: ApiKey, limits: Limits, *, by: Membership, address: str | None, may_raise: bool = True
) -> None:
    """Give the key these limits.

    Only an admin who `may_raise` goes above the limits of new keys. Raises `AboveCeiling`,
    `Managed`, or `ApiKey.DoesNotExist` when the key was deleted meanwhile.
    """
    with lock_key(key) as row:
        former: Limits = row.limits
        if limits == former:
            return
        require_unmanaged(row, by.user)
        if not (may_raise and by.is_at_least(Role.ADMIN)):
            _require_within_ceiling(row, limits)
        row.limits = limits
        row.save(update_fields=["limits"])
        AuditEvent.objects.record_changes(
            Action.KEY_CHANGED,
            key=row,
            changes=limits.changes_from(former),
            actor=by.user,
            team=row.team,
            address=address,
        )
        if former.above(limits):
            manage_unless_own(row, actor=by.user, address=address)


def _require_within_ceiling(key: ApiKey, limits: Limits) -> None:
    """What is above the ceiling since that was lowered may stay, or be lowered in its turn."""
    ceiling, raised = key.team.key_limits, limits.above(key.limits)
    if above := [name for name in limits.above(ceiling) if name in raised]:
        raise AboveCeiling(above, ceiling)


def set_new_key_limits(team: Team, limits: Limits, *, by: Membership, address: str | None) -> None:
    """What new keys of the team start with, and the most that members may give their own."""
    save_team_rule(team, "key_limits", limits, actor=by.user, address=address)

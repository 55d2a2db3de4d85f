"""Change the limits of one key (its owner or an admin) or of the team's new keys (an admin).

The rules are checked under the lock on the row and not in a form: an admin may lower the limits of
new keys, or begin to manage the key, while its owner fills in the form.
"""

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.changes import manage_unless_own, require_unmanaged
from keyportal.keys.models import ApiKey, lock_key
from keyportal.keys.rules.policy import save_team_rule
from keyportal.teams.access import Actor, is_admin, require_change
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team


class AboveCeiling(Exception):
    """Nothing was changed. `errors` has a message for each limit that is too high."""

    def __init__(self, names: list[str], ceiling: Limits) -> None:
        super().__init__(f"Too high: {', '.join(names)}.")
        self.errors = {name: f"At most {getattr(ceiling, name)}." for name in names}


def set_key_limits(
    key: ApiKey, limits: Limits, *, actor: Actor, address: str | None = None, may_raise: bool = True
) -> None:
    """Change the limits of the key.

    Only an admin with `may_raise` can go above the limits of new keys. Raises `AboveCeiling`,
    `ManagedByAdmin`, or `ApiKey.DoesNotExist` if the key was deleted in the meantime.
    """
    with lock_key(key, actor=actor, right=require_change) as row:
        former: Limits = row.limits
        if limits == former:
            return
        require_unmanaged(row, actor)
        if not (may_raise and is_admin(actor, row.team)):
            _require_within_ceiling(row, limits)
        row.limits = limits
        row.save(update_fields=["limits"])
        AuditEvent.objects.record_changes(
            Action.KEY_CHANGED,
            key=row,
            changes=limits.changes_from(former),
            actor=actor,
            team=row.team,
            address=address,
        )
        if former.above(limits):
            manage_unless_own(row, actor=actor, address=address)


def _require_within_ceiling(key: ApiKey, limits: Limits) -> None:
    """A limit that is above a lowered ceiling may stay as it is, or be lowered."""
    ceiling, raised = key.team.key_limits, limits.above(key.limits)
    if above := [name for name in limits.above(ceiling) if name in raised]:
        raise AboveCeiling(above, ceiling)


def set_new_key_limits(
    team: Team, limits: Limits, *, actor: Actor, address: str | None = None
) -> None:
    """The limits that new keys of the team get, and the highest that members can set."""
    save_team_rule(team, "key_limits", limits, actor=actor, address=address)

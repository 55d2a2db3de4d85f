"""Changing how much may be used: of one key by its owner or an admin, of all new keys by an admin.

The ceiling holds here, under the lock on the row, and not in a form: an admin may lower it while
the owner types.
"""

from django.db import transaction

from keyportal.activity.models import Action, AuditEvent
from keyportal.keys.models import ApiKey
from keyportal.keys.team_rules import set_rule
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Role, Team


class AboveCeiling(Exception):
    """Nothing was changed; `names` are of the limits that are too high."""

    def __init__(self, names: list[str], ceiling: Limits) -> None:
        super().__init__(f"Above what is allowed: {', '.join(names)}.")
        self.complaints = {name: f"At most {getattr(ceiling, name)} here." for name in names}


def limit_key(
    key: ApiKey, limits: Limits, *, by: Membership, address: str | None, may_raise: bool = True
) -> None:
    """Give the key these limits; an admin's are the owner's ceiling from now on.

    Unless they `may_raise`, the ceiling holds for an admin too, who then lowers it with the limits.
    Raises `AboveCeiling`, or `ApiKey.DoesNotExist` when the key was deleted meanwhile.
    """
    is_admin = by.is_at_least(Role.ADMIN)
    with transaction.atomic():
        locked = (
            ApiKey.objects.select_related("team")
            .select_for_update(no_key=True, of=("self",))
            .get(pk=key.pk)
        )
        if not (is_admin and may_raise):
            _require_no_raise(locked, limits)
        changes = limits.changes_from(locked.limits)
        locked.limits = limits
        # Who may not raise says nothing by limits that stay; but what they lower stays low.
        if is_admin and (may_raise or changes):
            locked.granted_limits = limits if may_raise else limits.lowest(locked.ceiling)
        locked.save(update_fields=["limits", "granted_limits"])
        AuditEvent.objects.record_changes(
            Action.KEY_CHANGED,
            key=locked,
            changes=changes,
            actor=by.user,
            team=locked.team,
            address=address,
        )


def _require_no_raise(key: ApiKey, limits: Limits) -> None:
    """What is above the ceiling since that was lowered may stay, or be lowered in its turn."""
    raised = limits.above(key.limits)
    if above := [name for name in limits.above(key.ceiling) if name in raised]:
        raise AboveCeiling(above, key.ceiling)


def limit_new_keys(team: Team, limits: Limits, *, by: Membership, address: str | None) -> None:
    """What new keys of the team start with, and the most that members may give their own."""
    set_rule(team, "key_limits", limits, actor=by.user, address=address)

"""What admins set for all keys of a team: changed under a lock, with a row in the audit."""

from typing import Literal

from keyportal.activity.models import Action, AuditEvent
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from keyportal.teams.rules import locked_rules

TARGETS = {"policy": "Policy", "key_limits": "Limits of new keys"}


def set_rule(
    team: Team,
    column: Literal["policy", "key_limits"],
    rule: Policy | Limits,
    *,
    actor: User | None,
    address: str | None,
) -> None:
    """Of two that change it at once, the audit tells what each has changed."""
    with locked_rules(team) as locked:
        changes = rule.changes_from(getattr(locked, column))
        setattr(locked, column, rule)
        locked.save(update_fields=[column])
        AuditEvent.objects.record_changes(
            Action.TEAM_CHANGED,
            target=TARGETS[column],
            changes=changes,
            actor=actor,
            team=locked,
            address=address,
        )

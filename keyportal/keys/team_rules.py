"""What admins set for all keys of a team: changed under a lock, with a row in the audit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from django.db import transaction

from keyportal.activity.models import Action, AuditEvent
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy

TARGETS = {"policy": "Policy", "key_limits": "Limits of new keys"}


@contextmanager
def locked_rules(team: Team) -> Iterator[Team]:
    """The team as it is now, in a transaction in which nobody else changes its rules."""
    with transaction.atomic():
        yield Team.objects.select_for_update(no_key=True).get(pk=team.pk)


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

"""What operators do with teams: create, limit, switch off and on."""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from keyportal.audit.source import current_source
from keyportal.operators.access import lock_operators
from keyportal.teams.access import Operator, lock_team
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.signals import team_changed, team_created


def create_team(team: Team, owner: User | None, *, actor: User) -> None:
    """Save the new team, with its first owner. Raises `ValidationError`."""
    with lock_operators(actor):
        team.full_clean()
        team.save()
        if owner is not None:
            Membership.objects.create(team=team, user=owner, role=Role.OWNER)
        team_created.send(Team, team=team, actor=actor, address=current_source()["address"])


def change_team(
    team: Team,
    changes: Mapping[str, Any],
    *,
    actor: User,
    check: Callable[[Team], None] = lambda _: None,
) -> None:
    """Change these columns. `check` gets the locked row, and may raise."""
    operator = Operator(actor, "teams.change_team")
    with lock_team(team, actor=operator, role=Role.ADMIN) as locked:
        check(locked)
        former = copy(locked)
        for name, value in changes.items():
            setattr(locked, name, value)
        locked.full_clean()
        locked.save(update_fields=changes)
        source = {"actor": operator, "address": current_source()["address"]}
        team_changed.send(Team, former=former, team=locked, columns=[*changes], **source)

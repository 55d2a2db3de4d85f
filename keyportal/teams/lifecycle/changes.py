"""Changes of a team by its members. Each is judged under the lock on the team, and audited."""

from collections.abc import Callable
from copy import copy

from keyportal.teams.access import Actor, lock_team
from keyportal.teams.models import Role, Team
from keyportal.teams.signals import team_changed


def rename(
    team: Team,
    name: str,
    *,
    actor: Actor,
    address: str | None = None,
    check: Callable[[Team], None],
) -> None:
    """Change the name. `check` gets the locked row, and may raise.

    Raises what `lock_team` raises, for an actor who is no admin.
    """
    with lock_team(team, actor=actor, role=Role.ADMIN) as locked:
        check(locked)
        _save(locked, "name", name, actor, address)


def _save(locked: Team, column: str, value: object, actor: Actor, address: str | None) -> None:
    former = copy(locked)
    setattr(locked, column, value)
    locked.save(update_fields=[column])
    team_changed.send(
        Team, former=former, team=locked, columns=[column], actor=actor, address=address
    )

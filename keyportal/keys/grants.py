"""What an admin of the team, or an operator, takes from a key: its owner may take further, but not
give back.

Judged under the lock on the key's row, and not in a form: an admin may take it while the owner
types. Limits follow the same rule, in `limits`.
"""

from typing import TYPE_CHECKING

from keyportal.teams.models import Membership, Role, Team, User

if TYPE_CHECKING:
    from keyportal.keys.models import ApiKey


def is_bound(actor: User | None, team: Team) -> bool:
    """By what was taken: all but the team's admins, and operators, whose commands have no actor."""
    if actor is None:
        return False
    found = Membership.objects.filter(team=team, user=actor).first()
    return found is None or not found.is_at_least(Role.ADMIN)


def holds(actor: User | None, key: "ApiKey") -> bool:
    """Whether the owner may not enable what this person disables."""
    is_owner = actor is not None and actor.pk == key.owner_id
    return not is_owner and not is_bound(actor, key.team)

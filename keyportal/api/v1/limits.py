"""How much a key may use, as a program asks for it.

To raise a limit above its ceiling takes an admin, as in the portal, and a scope too: of many keys a
leaked one of CI is the likeliest, and whoever has it should not be able to spend without a limit.
Nor may such a program get at what an admin granted on somebody's key, by its secret.
"""

from msgspec import UNSET, UnsetType

from keyportal.api.framework.authentication import Caller
from keyportal.api.framework.problems import MissingScope
from keyportal.api.scopes import Scope
from keyportal.api.v1.types import LimitChanges
from keyportal.keys.limits import AboveCeiling, limit_key
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Role


def limit(caller: Caller, key: ApiKey, asked: LimitChanges | UnsetType) -> None:
    """Raises `AboveCeiling`, or `MissingScope` where the caller's role alone would do."""
    if asked is UNSET:
        return
    may_raise = Scope.LIMITS_RAISE in caller.key.scopes
    limits = asked.applied_to(key.limits)
    try:
        limit_key(key, limits, by=caller.membership, address=caller.address, may_raise=may_raise)
    except AboveCeiling:
        if caller.membership.is_at_least(Role.ADMIN):
            raise MissingScope(Scope.LIMITS_RAISE) from None
        raise


def require_usual(caller: Caller, key: ApiKey) -> None:
    """Raises `MissingScope` where a key has more than new keys of the team.

    A member's program, which reaches its owner's keys alone, may use what they were given. It
    needs no scope for that: none would let it raise.
    """
    if Scope.LIMITS_RAISE in caller.key.scopes or not caller.membership.is_at_least(Role.ADMIN):
        return
    usual = key.team.key_limits
    if not key.limits.within(usual):
        raise MissingScope(Scope.LIMITS_RAISE)

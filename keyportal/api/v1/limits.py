"""Limits of API keys, set by a program.

As in the portal, only an admin may raise a limit above the key's ceiling; an admin's management key
also needs the scope `limits:raise`. Attack: a management key leaks from CI, and its finder spends
without limit, on a new key or on one that an admin gave higher limits.
"""

from msgspec import UNSET, UnsetType

from keyportal.api.framework.authentication import Caller
from keyportal.api.framework.problems import MissingScope
from keyportal.api.scopes import Scope
from keyportal.api.v1.types import LimitChanges
from keyportal.keys.limits import AboveCeiling, set_key_limits
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Role


def set_limits(caller: Caller, key: ApiKey, changes: LimitChanges | UnsetType) -> None:
    """Raises `AboveCeiling`, or `MissingScope` if the caller's role would allow it."""
    if changes is UNSET:
        return
    may_raise = Scope.LIMITS_RAISE in caller.key.scopes
    limits = changes.applied_to(key.limits)
    try:
        set_key_limits(key, limits, actor=caller.user, address=caller.address, may_raise=may_raise)
    except AboveCeiling:
        if caller.membership.is_at_least(Role.ADMIN):
            raise MissingScope(Scope.LIMITS_RAISE) from None
        raise


def require_default_limits(caller: Caller, key: ApiKey) -> None:
    """Raises `MissingScope` if the key has higher limits than new keys of the team get.

    A member's program needs no scope: it only reaches its owner's own keys, and can't raise limits.
    """
    if Scope.LIMITS_RAISE in caller.key.scopes or not caller.membership.is_at_least(Role.ADMIN):
        return
    if not key.limits.is_within(key.team.key_limits):
        raise MissingScope(Scope.LIMITS_RAISE)

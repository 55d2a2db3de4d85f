"""What a key may do, as it is written here, and what a management key may give."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Self

from django.core.exceptions import ValidationError
from django.utils import timezone
from msgspec import UNSET, Meta, Struct, UnsetType

from keyportal.api.framework.problems import BeyondBounds, FieldError, Invalid
from keyportal.api.v1.types import EndpointsValue
from keyportal.keys.rules.permissions import (
    LONGEST,
    MOST,
    Endpoints,
    Permissions,
    covers_models,
    read_networks,
    read_patterns,
)
from keyportal.keys.rules.policy import widest_permissions
from keyportal.teams.policy import Policy

Pattern = Annotated[
    str, Meta(min_length=1, max_length=LONGEST, pattern=r"^[^\s\u0000-\u001f\u007f-\u009f]+$")
]
Patterns = Annotated[
    list[Pattern],
    Meta(max_length=MOST, description="Names, or patterns such as `public/*`. Empty: all."),
]
Network = Annotated[str, Meta(min_length=1, max_length=64)]
Networks = Annotated[
    list[Network],
    Meta(max_length=MOST, description="Source addresses as CIDR. Empty: from everywhere."),
]


class PermissionsBody(Struct, forbid_unknown_fields=True):
    models: Patterns = []
    endpoints: EndpointsValue = Endpoints.ALL.value
    networks: Networks = []

    @classmethod
    def of(cls, permissions: Permissions) -> Self:
        return cls([*permissions.models], permissions.endpoints.value, [*permissions.networks])


class PermissionChanges(Struct, forbid_unknown_fields=True):
    """What is left out stays as it is; in a new key, as the team's policy has it."""

    models: Patterns | UnsetType = UNSET
    endpoints: EndpointsValue | UnsetType = UNSET
    networks: Networks | UnsetType = UNSET

    def applied_to(self, former: Permissions) -> Permissions:
        """Raises `Invalid` for what is no pattern, or no network."""
        found = former
        if self.models is not UNSET:
            found = found._replace(models=_read("models", read_patterns, self.models))
        if self.endpoints is not UNSET:
            found = found._replace(endpoints=Endpoints(self.endpoints))
        if self.networks is not UNSET:
            found = found._replace(networks=_read("networks", read_networks, self.networks))
        return found


def _read(
    name: str, read: Callable[[Sequence[str]], tuple[str, ...]], texts: list[str]
) -> tuple[str, ...]:
    try:
        return read(texts)
    except ValidationError as error:
        pointer = f"/permissions/{name}"
        raise Invalid(
            errors=[FieldError(told, pointer=pointer) for told in error.messages]
        ) from None


def usual_within(bounds: Permissions, policy: Policy) -> Permissions:
    """What a key gets where nobody says more: as much as policy and bounds allow, of each alone.

    Where the two have nothing in common, the bounds, which the policy then refuses in its words.
    """
    usual = widest_permissions(policy)
    is_within = bounds.endpoints.covers(usual.endpoints)
    return Permissions(
        _models_of_both(bounds.models, usual.models) or bounds.models,
        usual.endpoints if is_within else bounds.endpoints,
        bounds.networks,
    )


def _models_of_both(some: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """Each pattern of the one that is within the other."""
    of_both = {one for one in some if covers_models(others, [one])}
    return tuple(sorted(of_both | {one for one in others if covers_models(some, [one])}))


def require_within(bounds: Permissions, permissions: Permissions) -> None:
    """Raises `BeyondBounds`: a key that can do more must not come out of one that can do less."""
    if not bounds.covers(permissions):
        raise BeyondBounds


def usual_end(bound: datetime | None, policy: Policy) -> datetime | None:
    """When a key ends where nobody says: with the management key, or earlier if the policy asks."""
    longest = policy.longest_days and timezone.now() + timedelta(days=policy.longest_days)
    return min((end for end in (bound, longest) if end), default=None)


def end_within(bound: datetime | None, asked: datetime | None) -> datetime | None:
    """`bound` is when the management key ends, and with it, at the latest, what comes out of it.

    Whoever found it could make a way in that outlives it otherwise. Raises `BeyondBounds`.
    """
    if bound is not None and (asked is None or asked > bound):
        told = f"Not later than this management key itself, which ends at {bound.isoformat()}."
        raise BeyondBounds(
            "The key would outlive this management key.",
            errors=[FieldError(told, pointer="/expires_at")],
        )
    return asked

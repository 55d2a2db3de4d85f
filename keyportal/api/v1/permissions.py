"""The permissions of an API key, and how a management key bounds them."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Self

from django.core.exceptions import ValidationError
from msgspec import UNSET, Meta, Struct, UnsetType

from keyportal.api.framework.problems import BeyondBounds, FieldError, Invalid
from keyportal.api.v1.types import EndpointsValue
from keyportal.database.clock import database_now
from keyportal.keys.rules.permissions import (
    MAX_ENTRIES,
    MAX_PATTERN_LENGTH,
    Endpoints,
    Permissions,
    covers_models,
    normalize_networks,
    normalize_patterns,
)
from keyportal.keys.rules.policy import widest_permissions
from keyportal.teams.policy import Policy

Pattern = Annotated[
    str,
    Meta(
        min_length=1, max_length=MAX_PATTERN_LENGTH, pattern=r"^[^\s\u0000-\u001f\u007f-\u009f]+$"
    ),
]
Patterns = Annotated[
    list[Pattern],
    Meta(
        max_length=MAX_ENTRIES,
        description="Names of models, or patterns such as `public/*`. Empty: all.",
    ),
]
Network = Annotated[str, Meta(min_length=1, max_length=64)]
Networks = Annotated[
    list[Network],
    Meta(max_length=MAX_ENTRIES, description="Allowed networks in CIDR notation. Empty: all."),
]


class PermissionsBody(Struct, forbid_unknown_fields=True):
    models: Patterns = []
    endpoints: EndpointsValue = Endpoints.ALL.value
    networks: Networks = []

    @classmethod
    def from_permissions(cls, permissions: Permissions) -> Self:
        return cls([*permissions.models], permissions.endpoints.value, [*permissions.networks])


class PermissionChanges(Struct, forbid_unknown_fields=True):
    """What is left out stays unchanged, or in a new key gets the default of the team's policy."""

    models: Patterns | UnsetType = UNSET
    endpoints: EndpointsValue | UnsetType = UNSET
    networks: Networks | UnsetType = UNSET

    def applied_to(self, former: Permissions) -> Permissions:
        """Raises `Invalid` for a malformed pattern or network."""
        permissions = former
        if self.models is not UNSET:
            models = _parse("models", normalize_patterns, self.models)
            permissions = permissions._replace(models=models)
        if self.endpoints is not UNSET:
            permissions = permissions._replace(endpoints=Endpoints(self.endpoints))
        if self.networks is not UNSET:
            networks = _parse("networks", normalize_networks, self.networks)
            permissions = permissions._replace(networks=networks)
        return permissions


def _parse(
    name: str, parse: Callable[[Sequence[str]], tuple[str, ...]], texts: list[str]
) -> tuple[str, ...]:
    try:
        return parse(texts)
    except ValidationError as error:
        pointer = f"/permissions/{name}"
        raise Invalid(
            errors=[FieldError(message, pointer=pointer) for message in error.messages]
        ) from None


def default_permissions(bounds: Permissions, policy: Policy) -> Permissions:
    """The permissions of a new key when the request gives none: the widest within both the
    management key's `bounds` and the policy.

    If the two have nothing in common: the bounds. Then the policy's check names the violation.
    """
    widest = widest_permissions(policy)
    is_within = bounds.endpoints.covers(widest.endpoints)
    return Permissions(
        _common_models(bounds.models, widest.models) or bounds.models,
        widest.endpoints if is_within else bounds.endpoints,
        bounds.networks,
    )


def _common_models(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """The patterns of either list that the other list covers."""
    common = {pattern for pattern in first if covers_models(second, [pattern])}
    common |= {pattern for pattern in second if covers_models(first, [pattern])}
    return tuple(sorted(common))


def require_within(bounds: Permissions, permissions: Permissions) -> None:
    """Raises `BeyondBounds`.

    Attack: a program with a narrow management key creates an API key that is allowed more.
    """
    if not bounds.covers(permissions):
        raise BeyondBounds


def default_expiry(bound: datetime | None, policy: Policy) -> datetime | None:
    """The expiry of a new key when the request gives none.

    `bound` is the expiry of the management key. The policy may require an earlier one.
    """
    latest = policy.max_lifetime_days and database_now() + timedelta(days=policy.max_lifetime_days)
    return min((expiry for expiry in (bound, latest) if expiry), default=None)


def expiry_within(bound: datetime | None, expires_at: datetime | None) -> datetime | None:
    """Return `expires_at`. Raises `BeyondBounds` if it is later than `bound`, the expiry of the
    management key; None is never.

    Attack: the finder of a leaked management key creates an API key that outlives it.
    """
    if bound is not None and (expires_at is None or expires_at > bound):
        detail = f"Must not be later than {bound.isoformat()}, when this management key expires."
        raise BeyondBounds(
            "The API key would outlive this management key.",
            errors=[FieldError(detail, pointer="/expires_at")],
        )
    return expires_at

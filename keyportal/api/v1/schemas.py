"""An API key, as it is told and as it is asked for."""

from datetime import datetime
from typing import Annotated, Self

from msgspec import UNSET, Meta, Struct, UnsetType

from keyportal.api.v1.permissions import PermissionChanges, PermissionsBody
from keyportal.api.v1.types import (
    Description,
    DisabledByValue,
    GraceValue,
    LimitChanges,
    LimitsBody,
    Moment,
    Name,
    StateValue,
    Tags,
    Username,
)
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import live_secrets
from keyportal.keys.status import state_of


class SecretBody(Struct):
    """One of the two that a key has while a rotation overlaps."""

    last4: str
    created_at: datetime
    expires_at: datetime | None
    lasts_until_used: Annotated[
        bool, Meta(description="Whether it ends when the newer one is first used.")
    ]
    last_used_at: datetime | None

    @classmethod
    def of(cls, secret: Secret) -> Self:
        return cls(
            secret.last4,
            secret.created_at,
            secret.expires_at,
            secret.lasts_until_used,
            secret.last_used_at,
        )


_MANAGED = (
    "Whether only admins change its permissions, limits, expiry and owner, or enable it. It "
    "becomes true when an admin or operator narrows or disables somebody's key."
)


class KeyBody(Struct, kw_only=True):
    id: Annotated[str, Meta(description="Public, and the same for the life of the key.")]
    name: str
    description: str
    tags: list[str]
    masked: str
    owner: Annotated[str, Meta(description="The owner's name today.")]
    owner_id: int
    state: Annotated[StateValue, Meta(description="Only an active key is served.")]
    permissions: PermissionsBody
    limits: LimitsBody
    created_at: datetime
    expires_at: datetime | None
    disabled_at: datetime | None
    disabled_by: Annotated[
        DisabledByValue | None,
        Meta(description="A rotation enables again what a report of a leak has disabled."),
    ]
    managed: Annotated[bool, Meta(description=_MANAGED)]
    reported_at: Annotated[
        datetime | None, Meta(description="Since when it is known to have leaked.")
    ]
    secrets: Annotated[list[SecretBody], Meta(description="Those that live, the newest first.")]

    @classmethod
    def of(cls, found: ApiKey, **more: str) -> Self:
        """`found` comes from `for_display`, with its team."""
        return cls(
            id=found.public_id,
            name=found.name,
            description=found.description,
            tags=found.tags,
            masked=found.masked,
            owner=found.owner.get_username(),
            owner_id=found.owner_id,
            state=state_of(found).value,
            permissions=PermissionsBody.of(found.permissions),
            limits=LimitsBody.of(found.limits),
            created_at=found.created_at,
            expires_at=found.expires_at,
            disabled_at=found.disabled_at,
            disabled_by=found.disabled_by or None,
            managed=found.is_managed,
            reported_at=found.reported_at,
            secrets=[SecretBody.of(secret) for secret in live_secrets(found)],
            **more,
        )


class ShownKeyBody(KeyBody, kw_only=True):
    key: Annotated[str, Meta(description="The key itself, this once: it is not kept.")]

    def __repr__(self) -> str:
        # A traceback or a debugger shows reprs; the plaintext is not for either.
        return f"<ShownKeyBody {self.masked}>"


class NewKey(Struct, forbid_unknown_fields=True):
    name: Name
    description: Description = ""
    tags: Tags = []
    permissions: PermissionChanges | UnsetType = UNSET
    limits: LimitChanges | UnsetType = UNSET
    expires_at: Annotated[
        Moment | UnsetType | None,
        Meta(
            description="Null: never, for which the management key must never end either. Left "
            "out: when the management key ends, or as late as the policy lets it."
        ),
    ] = UNSET


class KeyChanges(Struct, forbid_unknown_fields=True):
    """What is left out stays as it is."""

    name: Name | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    permissions: PermissionChanges | UnsetType = UNSET
    limits: LimitChanges | UnsetType = UNSET
    expires_at: Annotated[
        Moment | UnsetType | None,
        Meta(description="Null: never, for which the management key must never end either."),
    ] = UNSET
    owner: Annotated[
        Username | UnsetType,
        Meta(description="Hands it over: to a member of the team who could own a key."),
    ] = UNSET
    managed: Annotated[
        bool | UnsetType, Meta(description=f"{_MANAGED} Set by admins' programs.")
    ] = UNSET


class Rotation(Struct, forbid_unknown_fields=True):
    grace: Annotated[
        GraceValue, Meta(description="How long the old secret lives on; at once over: `now`.")
    ]

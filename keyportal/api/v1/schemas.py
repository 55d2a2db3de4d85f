"""The request and response bodies for API keys."""

from datetime import datetime
from typing import Annotated, Self

from msgspec import UNSET, Meta, Struct, UnsetType

from keyportal.api.v1.permissions import PermissionChanges, PermissionsBody
from keyportal.api.v1.types import (
    Description,
    DisabledByValue,
    End,
    GraceValue,
    LimitChanges,
    LimitsBody,
    Name,
    StateValue,
    Tags,
    Username,
)
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import live_secrets
from keyportal.keys.status import state_of


class SecretBody(Struct):
    """A secret of a key. A key has one, or two during the grace time of a rotation."""

    last4: str
    created_at: datetime
    expires_at: datetime | None
    expires_when_new_used: Annotated[
        bool, Meta(description="Whether it ends when the newer secret is first used.")
    ]
    last_used_at: datetime | None

    @classmethod
    def from_secret(cls, secret: Secret) -> Self:
        return cls(
            secret.last4,
            secret.created_at,
            secret.expires_at,
            secret.expires_when_new_used,
            secret.last_used_at,
        )


_MANAGED = (
    "Whether only admins can enable the key and change its permissions, limits, expiry and owner. "
    "It becomes true when an admin or operator narrows or disables another person's key."
)


class KeyBody(Struct, kw_only=True):
    id: Annotated[str, Meta(description="The public id. It never changes.")]
    name: str
    description: str
    tags: list[str]
    masked: str
    owner: Annotated[str, Meta(description="The owner's current username.")]
    owner_id: int
    state: Annotated[StateValue, Meta(description="Only requests with an active key are served.")]
    permissions: PermissionsBody
    limits: LimitsBody
    created_at: datetime
    expires_at: datetime | None
    disabled_at: datetime | None
    disabled_by: Annotated[
        DisabledByValue | None,
        Meta(description="Who disabled the key. A rotation enables a key that `leak` disabled."),
    ]
    is_managed: Annotated[bool, Meta(description=_MANAGED)]
    reported_at: Annotated[
        datetime | None, Meta(description="When it was last reported as leaked.")
    ]
    secrets: Annotated[list[SecretBody], Meta(description="The live secrets, newest first.")]

    @classmethod
    def from_key(cls, api_key: ApiKey, **extra: str) -> Self:
        """`api_key` comes from `for_display`, with its team."""
        return cls(
            id=api_key.public_id,
            name=api_key.name,
            description=api_key.description,
            tags=api_key.tags,
            masked=api_key.masked,
            owner=api_key.owner.get_username(),
            owner_id=api_key.owner_id,
            state=state_of(api_key).value,
            permissions=PermissionsBody.from_permissions(api_key.permissions),
            limits=LimitsBody.from_limits(api_key.limits),
            created_at=api_key.created_at,
            expires_at=api_key.expires_at,
            disabled_at=api_key.disabled_at,
            disabled_by=api_key.disabled_by or None,
            is_managed=api_key.is_managed,
            reported_at=api_key.reported_at,
            secrets=[SecretBody.from_secret(secret) for secret in live_secrets(api_key)],
            **extra,
        )


class IssuedKeyBody(KeyBody, kw_only=True):
    key: Annotated[str, Meta(description="The key string. It is not stored and never shown again.")]

    def __repr__(self) -> str:
        # Tracebacks and debuggers show reprs; they must not show the key string.
        return f"<IssuedKeyBody {self.masked}>"


_EXPIRES_AT = (
    "A time with its zone, or a date: the end of that day in UTC. Null: never, which requires a "
    "management key that never expires."
)


class NewKey(Struct, forbid_unknown_fields=True):
    name: Name
    owner: Annotated[
        Username | UnsetType,
        Meta(
            description="The username of a service account. Only an admin's program can set it. "
            "Left out: the owner of the management key."
        ),
    ] = UNSET
    description: Description = ""
    tags: Tags = []
    permissions: PermissionChanges | UnsetType = UNSET
    limits: LimitChanges | UnsetType = UNSET
    expires_at: Annotated[
        End | UnsetType | None,
        Meta(
            description=f"{_EXPIRES_AT} Left out: when the management key expires, or earlier if "
            "the policy requires that."
        ),
    ] = UNSET


class KeyChanges(Struct, forbid_unknown_fields=True):
    """What is left out stays unchanged."""

    name: Name | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    permissions: PermissionChanges | UnsetType = UNSET
    limits: LimitChanges | UnsetType = UNSET
    expires_at: Annotated[End | UnsetType | None, Meta(description=_EXPIRES_AT)] = UNSET
    owner: Annotated[
        Username | UnsetType,
        Meta(description="The new owner's username: a member of the team who may own keys."),
    ] = UNSET
    is_managed: Annotated[
        bool | UnsetType, Meta(description=f"{_MANAGED} Only an admin's program can set it.")
    ] = UNSET


class Enabling(Struct, forbid_unknown_fields=True):
    accept_leak: Annotated[
        bool, Meta(description="Whether to enable a key that was reported as leaked.")
    ] = False


class Rotation(Struct, forbid_unknown_fields=True):
    grace: Annotated[
        GraceValue, Meta(description="How long the old secret still works; `now`: it ends at once.")
    ]

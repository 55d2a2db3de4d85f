"""The team's API keys: list, read, create, change and delete them."""

from datetime import datetime
from typing import Annotated, Any, cast

from django.views.decorators.debug import sensitive_variables
from msgspec import UNSET, Meta, UnsetType

from keyportal.api.framework.authentication import Caller
from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, PageQuery, paginate
from keyportal.api.framework.parsing import NoQuery
from keyportal.api.framework.problems import Conflict, Invalid, NotFound, Problem
from keyportal.api.scopes import Scope
from keyportal.api.v1.key_lookup import (
    get_key,
    get_member,
    locked_key,
    rules_as_problems,
    validated,
)
from keyportal.api.v1.limits import require_default_limits, set_limits
from keyportal.api.v1.permissions import (
    default_expiry,
    default_permissions,
    expiry_within,
    require_within,
)
from keyportal.api.v1.schemas import IssuedKeyBody, KeyBody, KeyChanges, NewKey
from keyportal.api.v1.service_accounts import find_service_account
from keyportal.api.v1.types import Line, StateValue, Tag, UserId
from keyportal.keys import changes
from keyportal.keys.exceptions import KeyLimitReached
from keyportal.keys.models import ApiKey, ApiKeyQuerySet
from keyportal.keys.rules.permissions import Permissions
from keyportal.keys.rules.validators import has_tag
from keyportal.keys.status import State, has_state
from keyportal.teams.access import require_end
from keyportal.teams.models import Role, User

operations = Operations()
LIMITS_RAISE_TO_CHANGE = "for an admin's program to set limits above those that members may set"
LIMITS_RAISE_TO_HAND_OVER = "to hand over a key that has higher limits than new keys get"


class KeyQuery(PageQuery, forbid_unknown_fields=True):
    name: Line | UnsetType = UNSET
    owner: Annotated[Line | UnsetType, Meta(description="The owner's current username.")] = UNSET
    owner_id: UserId | UnsetType = UNSET
    tag: Annotated[Tag | UnsetType, Meta(description="A tag, spelled exactly as on the key.")] = (
        UNSET
    )
    state: StateValue | UnsetType = UNSET

    def filter(self, keys: ApiKeyQuerySet) -> ApiKeyQuerySet:
        """The keys that match all given parameters."""
        if self.name is not UNSET:
            keys = keys.filter(name=self.name)
        if self.owner is not UNSET:
            keys = keys.filter(owner__username=self.owner)
        if self.owner_id is not UNSET:
            keys = keys.filter(owner=self.owner_id)
        if self.tag is not UNSET:
            keys = keys.filter(has_tag(self.tag))
        return keys if self.state is UNSET else keys.filter(has_state(State(self.state)))


@operations.get("keys", scope=Scope.KEYS_READ, query=KeyQuery, response=Page[KeyBody])
def list_keys(request: Request[None, KeyQuery]) -> Page[KeyBody]:
    """List the API keys of the team, newest first."""
    keys = ApiKey.objects.for_team(request.caller.team).for_display().select_related("team")
    return paginate(request.query.filter(keys), request.query, KeyBody.from_key)


@operations.get("keys/{id}", scope=Scope.KEYS_READ, response=KeyBody, errors=(NotFound,))
def read_key(request: Request[None, NoQuery], id: str) -> KeyBody:  # noqa: A002 - its name in the path
    """Read one API key."""
    return KeyBody.from_key(get_key(request.caller, id))


@operations.post(
    "keys",
    scope=Scope.KEYS_WRITE,
    extra_scopes={Scope.LIMITS_RAISE: LIMITS_RAISE_TO_CHANGE},
    role=Role.MEMBER,
    body=NewKey,
    response=IssuedKeyBody,
    status=201,
    errors=(Conflict,),
)
@sensitive_variables("key_string")
def create_key(request: Request[NewKey, NoQuery]) -> IssuedKeyBody | Problem:
    """Create an API key

    The response holds the key string, which is shown only once. The key belongs to the owner of the
    management key, or to the service account in `owner`. Permissions that are left out are as wide
    as the team's policy and the management key allow. The key expires no later than the management
    key; without `expires_at`, it expires with it, or earlier if the policy requires that. Names are
    unique in the team: if the
    response was lost and you send the request again, no second key is created and the response is
    409 with `name-taken`. Then find the key by its name, and rotate it to get a new secret.
    """
    caller, body = request.caller, request.body
    values = validated(body)
    values["expires_at"] = _expiry(caller, values)
    try:
        with rules_as_problems():
            key, key_string = ApiKey.objects.issue(
                team=caller.team,
                owner=_owner(caller, body),
                actor=caller.user,
                address=caller.address,
                permissions=_permissions(caller, body),
                **values,
            )
            set_limits(caller, key, body.limits)
    except KeyLimitReached as refusal:
        return Conflict(str(refusal))
    return IssuedKeyBody.from_key(get_key(caller, key.public_id), key=key_string.text)


@operations.patch(
    "keys/{id}",
    scope=Scope.KEYS_WRITE,
    extra_scopes={Scope.LIMITS_RAISE: f"{LIMITS_RAISE_TO_CHANGE}, and {LIMITS_RAISE_TO_HAND_OVER}"},
    role=Role.MEMBER,
    body=KeyChanges,
    response=KeyBody,
    errors=(NotFound, Conflict),
)
def change_key(request: Request[KeyChanges, NoQuery], id: str) -> KeyBody:  # noqa: A002
    """Change an API key

    The change applies to the next request on every worker. The key must not be allowed more than
    the management key may give, whoever owns it afterwards. A new expiry must not be later than
    that of the management key. If the key is managed by an admin, a member's program can't change
    its permissions, limits, expiry and owner.
    """
    caller, body = request.caller, request.body
    values = validated(body)
    with locked_key(caller, id) as key:
        if values.get("expires_at", key.expires_at) != key.expires_at:
            expiry_within(caller.key.expires_at, values["expires_at"])
        if body.owner is not UNSET:
            # The new owner could rotate the key and use limits that an admin granted to another.
            require_default_limits(caller, key)
        if body.permissions is not UNSET:
            values["permissions"] = body.permissions.applied_to(key.permissions)
        require_within(caller.key.permissions, values.get("permissions", key.permissions))
        changes.change_key(
            key, cast("changes.Changes", values), actor=caller.user, address=caller.address
        )
        set_limits(caller, key, body.limits)
        if body.owner is not UNSET:
            new_owner = get_member(caller, body.owner)
            changes.hand_over(key, new_owner, actor=caller.user, address=caller.address)
        if body.is_managed is not UNSET:
            caller.require(None, Role.ADMIN)
            # Last, because an admin who narrows a key above makes it managed.
            changes.set_managed(key, body.is_managed, actor=caller.user, address=caller.address)
    return KeyBody.from_key(get_key(caller, id))


@operations.delete("keys/{id}", scope=Scope.KEYS_WRITE, errors=(NotFound,))
def delete_key(request: Request[None, NoQuery], id: str) -> None:  # noqa: A002
    """Delete an API key

    No request that starts after the response is served with it. The program of a viewer can delete
    the API keys of its owner.
    """
    with locked_key(request.caller, id, right=require_end) as key:
        key.revoke(actor=request.caller.user, address=request.caller.address)


def _owner(caller: Caller, body: NewKey) -> User:
    """Raises `WeakRole`, or `Invalid` for anything but a service account of the team."""
    if body.owner is UNSET:
        return caller.user
    caller.require(None, Role.ADMIN)
    account = find_service_account(caller, body.owner)
    if account is None:
        raise Invalid.at("/owner", "The team has no service account with this username.")
    return account


def _expiry(caller: Caller, values: dict[str, Any]) -> datetime | None:
    """Raises `BeyondBounds`."""
    if "expires_at" not in values:
        return default_expiry(caller.key.expires_at, caller.team.policy)
    return expiry_within(caller.key.expires_at, values["expires_at"])


def _permissions(caller: Caller, body: NewKey) -> Permissions:
    """Raises `BeyondBounds`."""
    bounds = caller.key.permissions
    permissions = default_permissions(bounds, caller.team.policy)
    if body.permissions is not UNSET:
        permissions = body.permissions.applied_to(permissions)
    require_within(bounds, permissions)
    return permissions

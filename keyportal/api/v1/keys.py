"""The team's API keys: list, read, make, change and delete them."""

from datetime import datetime
from typing import Annotated

from django.views.decorators.debug import sensitive_variables
from msgspec import UNSET, Meta, UnsetType

from keyportal.api.framework.authentication import Caller
from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, Paged, page
from keyportal.api.framework.parsing import NoQuery
from keyportal.api.framework.problems import Conflict, NotFound, Problem
from keyportal.api.scopes import Scope
from keyportal.api.v1.key_lookup import changing, key_of, member_named, refusals, sound
from keyportal.api.v1.limits import limit, require_usual
from keyportal.api.v1.permissions import end_within, require_within, usual_end, usual_within
from keyportal.api.v1.schemas import KeyBody, KeyChanges, NewKey, ShownKeyBody
from keyportal.api.v1.types import Line, StateValue, Tag, UserId
from keyportal.keys import changes
from keyportal.keys.exceptions import KeyLimitReached
from keyportal.keys.models import ApiKey, ApiKeyQuerySet
from keyportal.keys.rules.permissions import Permissions
from keyportal.keys.rules.validators import holding
from keyportal.keys.status import State, in_state
from keyportal.teams.models import Role

operations = Operations()
RAISING = "to go above what members may give, which takes an admin too"
HANDING = "for an admin's program to hand over a key that may use more than new keys"


class KeyQuery(Paged, forbid_unknown_fields=True):
    name: Line | UnsetType = UNSET
    owner: Annotated[Line | UnsetType, Meta(description="A user's name today.")] = UNSET
    owner_id: UserId | UnsetType = UNSET
    tag: Annotated[Tag | UnsetType, Meta(description="As it is written on the key.")] = UNSET
    state: StateValue | UnsetType = UNSET

    def among(self, keys: ApiKeyQuerySet) -> ApiKeyQuerySet:
        """Those that all of it is true of."""
        if self.name is not UNSET:
            keys = keys.filter(name=self.name)
        if self.owner is not UNSET:
            keys = keys.filter(owner__username=self.owner)
        if self.owner_id is not UNSET:
            keys = keys.filter(owner=self.owner_id)
        if self.tag is not UNSET:
            keys = keys.filter(holding(self.tag))
        return keys if self.state is UNSET else keys.filter(in_state(State(self.state)))


@operations.get("keys", scope=Scope.KEYS_READ, query=KeyQuery, answer=Page[KeyBody])
def list_keys(asked: Request[None, KeyQuery]) -> Page[KeyBody]:
    """List the API keys of the team, newest first."""
    keys = ApiKey.objects.of(asked.caller.team).for_display().select_related("team")
    return page(asked.query.among(keys), asked.query, KeyBody.of)


@operations.get("keys/{id}", scope=Scope.KEYS_READ, answer=KeyBody, refuses=(NotFound,))
def read_key(asked: Request[None, NoQuery], id: str) -> KeyBody:  # noqa: A002 - its name in the path
    """Tell of one API key."""
    return KeyBody.of(key_of(asked.caller, id))


@operations.post(
    "keys",
    scope=Scope.KEYS_WRITE,
    more={Scope.LIMITS_RAISE: RAISING},
    role=Role.MEMBER,
    body=NewKey,
    answer=ShownKeyBody,
    status=201,
    refuses=(Conflict,),
)
@sensitive_variables("key_string")
def create_key(asked: Request[NewKey, NoQuery]) -> ShownKeyBody | Problem:
    """Make an API key, and show it this once

    It belongs to the owner of the management key. Without permissions it may do what the team's
    policy lets new keys do, within what the management key may give. It ends no later than the
    management key, and without `expires_at` at the same moment, or as late as the policy lets it.
    Names are unique in the team: where the answer was lost, sending the request again makes no
    second key, but answers 409 with `name-taken`. Read the key by its name then, and rotate it to
    get a new secret.
    """
    caller, body = asked.caller, asked.body
    told = sound(body) | {"expires_at": _end(caller, body)}
    try:
        with refusals():
            key, key_string = ApiKey.objects.issue(
                team=caller.team,
                owner=caller.user,
                actor=caller.user,
                address=caller.address,
                permissions=_permissions(caller, body),
                **told,
            )
            limit(caller, key, body.limits)
    except KeyLimitReached as refusal:
        return Conflict(str(refusal))
    return ShownKeyBody.of(key_of(caller, key.public_id), key=key_string.text)


@operations.patch(
    "keys/{id}",
    scope=Scope.KEYS_WRITE,
    more={Scope.LIMITS_RAISE: f"{RAISING}, and {HANDING}"},
    role=Role.MEMBER,
    body=KeyChanges,
    answer=KeyBody,
    refuses=(NotFound, Conflict),
)
def change_key(asked: Request[KeyChanges, NoQuery], id: str) -> KeyBody:  # noqa: A002
    """Change an API key

    It holds for the next request on every worker. Afterwards the key may do no more than the
    management key may give, whoever owns it then. An end that it gets is no later than that of the
    management key. Of a key that an admin manages, a member's program changes name, description
    and tags.
    """
    caller, body = asked.caller, asked.body
    given = sound(body)
    with changing(caller, id) as key:
        if given.get("expires_at", key.expires_at) != key.expires_at:
            end_within(caller.key.expires_at, given["expires_at"])
        if body.owner is not UNSET:
            # They could rotate it, and have what an admin granted to somebody else.
            require_usual(caller, key)
        if body.permissions is not UNSET:
            given["permissions"] = body.permissions.applied_to(key.permissions)
        require_within(caller.key.permissions, given.get("permissions", key.permissions))
        changes.change(key, changes.Changes(**given), actor=caller.user, address=caller.address)
        limit(caller, key, body.limits)
        if body.owner is not UNSET:
            to = member_named(caller, body.owner)
            changes.hand_over(key, to, actor=caller.user, address=caller.address)
        if body.managed is not UNSET:
            caller.require(None, Role.ADMIN)
            # Last, because a key that was just narrowed has become managed.
            changes.set_managed(key, body.managed, actor=caller.user, address=caller.address)
    return KeyBody.of(key_of(caller, id))


@operations.delete("keys/{id}", scope=Scope.KEYS_WRITE, role=Role.MEMBER, refuses=(NotFound,))
def delete_key(asked: Request[None, NoQuery], id: str) -> None:  # noqa: A002
    """Delete an API key

    No request that starts after the answer is served with it.
    """
    with changing(asked.caller, id) as key:
        key.revoke(actor=asked.caller.user, address=asked.caller.address)


def _end(caller: Caller, body: NewKey) -> datetime | None:
    """Raises `BeyondBounds`."""
    if body.expires_at is UNSET:
        return usual_end(caller.key.expires_at, caller.team.policy)
    return end_within(caller.key.expires_at, body.expires_at)


def _permissions(caller: Caller, body: NewKey) -> Permissions:
    """Raises `BeyondBounds`."""
    bounds = caller.key.permissions
    permissions = usual_within(bounds, caller.team.policy)
    if body.permissions is not UNSET:
        permissions = body.permissions.applied_to(permissions)
    require_within(bounds, permissions)
    return permissions

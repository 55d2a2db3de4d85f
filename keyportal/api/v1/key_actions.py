"""Actions on an API key: rotate it, end its old secret, disable and enable it."""

from django.views.decorators.debug import sensitive_variables

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.parsing import NoQuery
from keyportal.api.framework.problems import Conflict, NotFound
from keyportal.api.scopes import Scope
from keyportal.api.v1.key_lookup import get_key, locked_key
from keyportal.api.v1.limits import require_default_limits
from keyportal.api.v1.permissions import require_within
from keyportal.api.v1.schemas import Enabling, IssuedKeyBody, KeyBody, Rotation
from keyportal.keys import changes, rotation
from keyportal.teams.access import require_end
from keyportal.teams.models import Role

operations = Operations()


@operations.post(
    "keys/{id}/rotate",
    scope=Scope.KEYS_WRITE,
    extra_scopes={
        Scope.LIMITS_RAISE: "for an admin's program, if the key has higher limits than new keys get"
    },
    role=Role.MEMBER,
    body=Rotation,
    response=IssuedKeyBody,
    errors=(NotFound, Conflict),
)
@sensitive_variables("key_string")
def rotate_key(request: Request[Rotation, NoQuery], id: str) -> IssuedKeyBody:  # noqa: A002
    """Rotate an API key

    The response holds the new key string, which is shown only once. The API key must not be allowed
    more than the management key may give. If the response was lost, rotate again with the grace
    `now`.
    """
    caller = request.caller
    with locked_key(caller, id) as key:
        require_within(caller.key.permissions, key.permissions)
        require_default_limits(caller, key)
        key_string = rotation.rotate(
            key, rotation.GracePeriod(request.body.grace), actor=caller.user, address=caller.address
        )
    return IssuedKeyBody.from_key(get_key(caller, id), key=key_string.text)


@operations.post(
    "keys/{id}/end-old-secret",
    scope=Scope.KEYS_WRITE,
    role=Role.MEMBER,
    response=KeyBody,
    errors=(NotFound,),
)
def end_old_secret(request: Request[None, NoQuery], id: str) -> KeyBody:  # noqa: A002
    """End the old secret of a rotation now."""
    with locked_key(request.caller, id) as key:
        rotation.revoke_old_secret(key, actor=request.caller.user, address=request.caller.address)
    return KeyBody.from_key(get_key(request.caller, id))


@operations.post(
    "keys/{id}/disable",
    scope=Scope.KEYS_WRITE,
    role=Role.VIEWER,
    response=KeyBody,
    errors=(NotFound,),
)
def disable_key(request: Request[None, NoQuery], id: str) -> KeyBody:  # noqa: A002
    """Disable an API key

    Requests with it are refused until it is enabled again. Disabling a disabled key changes
    nothing. The program of a viewer can disable the API keys of its owner.
    """
    with locked_key(request.caller, id, right=require_end) as key:
        changes.disable(key, actor=request.caller.user, address=request.caller.address)
    return KeyBody.from_key(get_key(request.caller, id))


@operations.post(
    "keys/{id}/enable",
    scope=Scope.KEYS_WRITE,
    role=Role.MEMBER,
    body=Enabling,
    needs_body=False,
    response=KeyBody,
    errors=(NotFound, Conflict),
)
def enable_key(request: Request[Enabling, NoQuery], id: str) -> KeyBody:  # noqa: A002
    """Enable an API key

    The API key must not be allowed more than the management key may give. A key that is managed by
    an admin can only be enabled by an admin's program. A key that was reported as leaked gets 409
    without `accept_leak`: rotate it instead.
    """
    caller = request.caller
    with locked_key(caller, id) as key:
        require_within(caller.key.permissions, key.permissions)
        changes.enable(
            key,
            actor=caller.user,
            address=caller.address,
            accept_leak=request.body.accept_leak,
        )
    return KeyBody.from_key(get_key(caller, id))

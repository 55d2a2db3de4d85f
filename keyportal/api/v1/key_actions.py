"""What is done to a key's secrets and with its switch: rotate it, end the old one, off and on."""

from django.views.decorators.debug import sensitive_variables

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.parsing import NoQuery
from keyportal.api.framework.problems import Conflict, NotFound
from keyportal.api.scopes import Scope
from keyportal.api.v1.key_lookup import changing, key_of
from keyportal.api.v1.limits import require_usual
from keyportal.api.v1.permissions import require_within
from keyportal.api.v1.schemas import KeyBody, Rotation, ShownKeyBody
from keyportal.keys import changes, rotation
from keyportal.teams.models import Role

operations = Operations()


@operations.post(
    "keys/{id}/rotate",
    scope=Scope.KEYS_WRITE,
    more={Scope.LIMITS_RAISE: "for an admin's program, of a key that may use more than new keys"},
    role=Role.MEMBER,
    body=Rotation,
    answer=ShownKeyBody,
    refuses=(NotFound, Conflict),
)
@sensitive_variables("key_string")
def rotate_key(asked: Request[Rotation, NoQuery], id: str) -> ShownKeyBody:  # noqa: A002
    """Give an API key a new secret, and show it this once

    The key may do no more than the management key may give, or its secret would give more away.
    Where the answer was lost, rotate again with the grace `now`.
    """
    caller = asked.caller
    with changing(caller, id) as key:
        require_within(caller.key.permissions, key.permissions)
        require_usual(caller, key)
        key_string = rotation.rotate(
            key, rotation.Grace(asked.body.grace), actor=caller.user, address=caller.address
        )
    return ShownKeyBody.of(key_of(caller, id), key=key_string.text)


@operations.post(
    "keys/{id}/end-old-secret",
    scope=Scope.KEYS_WRITE,
    role=Role.MEMBER,
    answer=KeyBody,
    refuses=(NotFound,),
)
def end_old_secret(asked: Request[None, NoQuery], id: str) -> KeyBody:  # noqa: A002
    """End at once what a rotation let live on."""
    with changing(asked.caller, id) as key:
        rotation.end_old(key, actor=asked.caller.user, address=asked.caller.address)
    return KeyBody.of(key_of(asked.caller, id))


@operations.post(
    "keys/{id}/disable",
    scope=Scope.KEYS_WRITE,
    role=Role.MEMBER,
    answer=KeyBody,
    refuses=(NotFound,),
)
def disable_key(asked: Request[None, NoQuery], id: str) -> KeyBody:  # noqa: A002
    """Switch an API key off

    It is refused until it is switched on again. Doing so twice is doing so once.
    """
    with changing(asked.caller, id) as key:
        changes.disable(key, actor=asked.caller.user, address=asked.caller.address)
    return KeyBody.of(key_of(asked.caller, id))


@operations.post(
    "keys/{id}/enable",
    scope=Scope.KEYS_WRITE,
    role=Role.MEMBER,
    answer=KeyBody,
    refuses=(NotFound,),
)
def enable_key(asked: Request[None, NoQuery], id: str) -> KeyBody:  # noqa: A002
    """Switch an API key on again

    The key may do no more than the management key may give. Of a key that an admin
    manages, only an admin's program does it.
    """
    with changing(asked.caller, id) as key:
        require_within(asked.caller.key.permissions, key.permissions)
        changes.enable(key, actor=asked.caller.user, address=asked.caller.address)
    return KeyBody.of(key_of(asked.caller, id))

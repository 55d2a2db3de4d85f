"""One act on several keys at once: each in a transaction of its own, with an audit row of its own.

What is gone by then is passed over, because it no longer needs the act.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from django.core.exceptions import BadRequest

from keyportal.keys import changes, secret
from keyportal.keys.models import ApiKey
from keyportal.teams.access import require_change
from keyportal.teams.models import Membership, User

MOST = 100  # Keys: more than a page of the list, and no more than a request should take on.


class Deed(NamedTuple):
    name: str
    done: str
    warning: str
    act: Callable[[ApiKey, User, str | None], object]


def _delete(key: ApiKey, actor: User, address: str | None) -> None:
    key.revoke(actor=actor, address=address)


def _disable(key: ApiKey, actor: User, address: str | None) -> None:
    changes.disable(key, actor=actor, address=address)


REFUSED = "Programs that use them will be refused from their next request on, on every server."
DELETING = Deed("Delete", "deleted", f"{REFUSED} It is final.", _delete)
DISABLING = Deed("Disable", "disabled", f"{REFUSED} They can be enabled again.", _disable)


def chosen(membership: Membership, public_ids: Sequence[str]) -> list[ApiKey]:
    """Those of the member's team, by name; what is not there is left out.

    One that they may not change is refused with all: nobody who chose it from the list is one
    who may not. Raises `PermissionDenied`, or `BadRequest` for too many.
    """
    if len(public_ids) > MOST:
        raise BadRequest(f"At most {MOST} keys at once.")
    # What can't be one is not there either, and PostgreSQL fails over some of it.
    asked = filter(secret.is_public_id, public_ids)
    found = ApiKey.objects.of(membership.team).filter(public_id__in=asked)
    keys = [*found.for_display().order_by("name")]
    for key in keys:
        require_change(membership, key)
    return keys


def do(deed: Deed, keys: Sequence[ApiKey], *, actor: User, address: str | None) -> int:
    """How many there were still. No request that starts after this is served with them."""
    count = 0
    for key in keys:
        with suppress(ApiKey.DoesNotExist):
            deed.act(key, actor, address)
            count += 1
    return count

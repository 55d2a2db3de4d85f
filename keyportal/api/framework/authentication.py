"""Authentication: the management key of a request and its owner's current role in the team.

Only the bearer token counts. Sessions, cookies and other headers are ignored, so that another
site's page can't make a signed-in browser call the API (CSRF).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from django.conf import settings
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

from keyportal.api.framework import throttling
from keyportal.api.framework.problems import (
    InvalidKey,
    MissingCredentials,
    MissingScope,
    TooManyRequests,
    WeakRole,
)
from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.keys import keystring
from keyportal.teams.access import InactiveTeam, Outsider, lock_team
from keyportal.teams.models import Membership, Role, Team, User

_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)


class Caller(NamedTuple):
    key: ManagementKey
    membership: Membership
    address: str | None

    @property
    def team(self) -> Team:
        return self.membership.team

    @property
    def user(self) -> User:
        return self.membership.user

    def require(self, scope: Scope | None, role: Role) -> None:
        """Raises `MissingScope`, or `WeakRole` if the owner's role would not allow it in the portal
        either."""
        if scope is not None and scope not in self.key.scopes:
            raise MissingScope(scope)
        if not self.membership.is_at_least(role):
            raise WeakRole(
                f"This needs the role {role.label}. The owner of this management key has the role "
                f"{Role(self.membership.role).label} in the team."
            )

    @contextmanager
    def locked(self) -> Iterator["Caller"]:
        """The caller as of now, in a transaction that holds the lock on the team.

        Until it ends, the management key can't be deleted, and its owner not be demoted or removed.
        Raises `InvalidKey` if that has happened since authentication.
        """
        keys = ManagementKey.objects.active().select_related("owner")
        try:
            with lock_team(self.team, actor=self.user, role=Role.VIEWER):
                key = keys.select_for_update(no_key=True, of=("self",)).get(pk=self.key.pk)
                yield Caller(key, key.membership, self.address)
        except (ManagementKey.DoesNotExist, Team.DoesNotExist, Outsider, InactiveTeam):
            raise InvalidKey from None


@sensitive_variables()
def authenticate(request: HttpRequest) -> Caller:
    """Raises `MissingCredentials`, `InvalidKey` or `TooManyRequests`.

    A token that is not a well-formed management key costs no query.
    """
    token, address = _bearer_token(request), request.META.get("REMOTE_ADDR")
    if not keystring.is_well_formed(token, settings.MANAGEMENT_KEY_PREFIXES):
        raise InvalidKey
    keys = ManagementKey.objects.active().select_related("team", "owner")
    try:
        key = keys.get(digest=keystring.digest(token))
        membership = key.membership
    except (ManagementKey.DoesNotExist, Membership.DoesNotExist):
        _throttle(throttling.address_subject(address), throttling.FAILURES_PER_MINUTE)
        raise InvalidKey from None
    _throttle(throttling.key_subject(key.public_id), settings.API_REQUESTS_PER_MINUTE)
    key.record_use(address)
    return Caller(key, membership, address)


@sensitive_variables()
def _bearer_token(request: HttpRequest) -> bytes:
    match = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    if not match:
        raise MissingCredentials
    # The server decodes headers as Latin-1. A token beyond ASCII is not well formed anyway.
    return match[1].encode("utf-8", "replace")


def _throttle(subject: str, limit: int) -> None:
    if seconds := throttling.count_request(subject, limit):
        raise TooManyRequests(f"At most {limit} requests a minute.", seconds)

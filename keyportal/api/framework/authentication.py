"""Who calls: the management key of a request, and what its owner is in the team at this moment.

A bearer token alone: no session, no cookie and no other header is ever looked at, so no page of
somebody else's can make a browser call.
"""

import re
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
        """Raises `MissingScope`, or `WeakRole` where a page would be closed to the owner too."""
        if scope is not None and scope not in self.key.scopes:
            raise MissingScope(scope)
        if not self.membership.is_at_least(role):
            raise WeakRole(
                f"This needs the role {role.label}; in this team the owner of this management "
                f"key is {Role(self.membership.role).label}."
            )

    def hold_key(self) -> None:
        """For the rest of the transaction. Raises `InvalidKey` where it was deleted meanwhile."""
        try:
            self.key.held()
        except ManagementKey.DoesNotExist:
            raise InvalidKey from None


@sensitive_variables()
def caller_of(request: HttpRequest) -> Caller:
    """Raises `MissingCredentials`, `InvalidKey` or `TooManyRequests`.

    What can't be a management key costs no query.
    """
    token, address = _token(request), request.META.get("REMOTE_ADDR")
    if not keystring.is_well_formed(token, settings.MANAGEMENT_KEY_PREFIXES):
        raise InvalidKey
    working = ManagementKey.objects.working().select_related("team", "owner")
    try:
        key = working.get(digest=keystring.digest(token))
        membership = key.membership
    except (ManagementKey.DoesNotExist, Membership.DoesNotExist):
        _limit(throttling.stranger_subject(address), throttling.FAILURES_PER_MINUTE)
        raise InvalidKey from None
    _limit(throttling.caller_subject(key.public_id), settings.API_REQUESTS_PER_MINUTE)
    key.saw_use(address)
    return Caller(key, membership, address)


@sensitive_variables()
def _token(request: HttpRequest) -> bytes:
    found = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    if not found:
        raise MissingCredentials
    # Servers hand headers over as Latin-1; what is beyond ASCII is no key, and is not well formed.
    return found[1].encode("utf-8", "replace")


def _limit(subject: str, limit: int) -> None:
    if seconds := throttling.count(subject, limit):
        raise TooManyRequests(f"At most {limit} requests a minute.", seconds)

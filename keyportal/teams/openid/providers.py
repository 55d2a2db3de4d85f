"""The identity providers at which people can sign in: of the environment, and of operators' pages.

They are read with each request, so that a change is in force for the next one on every worker.
"""

import logging
from collections.abc import Iterable, Iterator

from django.conf import settings
from django.db.models import Q, QuerySet

from keyportal.database.encryption import Unreadable
from keyportal.teams.openid.configuration import SCIM, IdentityProvider
from keyportal.teams.openid.stored import StoredProvider

logger = logging.getLogger(__name__)


class NotOffered(Exception):
    """The provider was deleted or switched off, or its issuer changed, maybe during a sign-in."""


def identity_providers() -> list[IdentityProvider]:
    return [*settings.OIDC_PROVIDERS, *_readable(_offered())]


def configured(provider_id: str, *, lock: bool = False) -> IdentityProvider:
    """Raises `NotOffered`. With `lock`, it stays as it is until the end of the transaction."""
    rows = _offered().filter(provider_id=provider_id)
    providers = _readable(rows.select_for_update(no_key=True) if lock else rows)
    for provider in (*settings.OIDC_PROVIDERS, *providers):
        if provider.id == provider_id:
            return provider
    raise NotOffered


def sources() -> set[str]:
    """What `Membership.granted_by` has of those whose groups still decide about roles, at once or
    when they are switched on again."""
    ids = {provider.id for provider in settings.OIDC_PROVIDERS}
    ids.update(StoredProvider.objects.values_list("provider_id", flat=True))
    return ids | {SCIM} if settings.SCIM_TOKENS else ids


def _offered() -> QuerySet[StoredProvider]:
    return StoredProvider.objects.filter(is_active=True).exclude(in_environment()).order_by("pk")


def in_environment() -> Q:
    """Whose ID or issuer the environment has too. That one counts: who sets it may do anything."""
    providers = settings.OIDC_PROVIDERS
    ids, issuers = ([getattr(each, name) for each in providers] for name in ("id", "issuer"))
    return Q(provider_id__in=ids) | Q(issuer__in=issuers)


def _readable(rows: Iterable[StoredProvider]) -> Iterator[IdentityProvider]:
    for row in rows:
        try:
            yield row.configuration
        except Unreadable as error:
            logger.error("Nobody can sign in with %s: its secret is lost. %s", row, error)

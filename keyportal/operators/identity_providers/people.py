"""Who signs in at a provider, who could not sign in without it, and the roles that it leaves."""

from typing import NamedTuple

from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX
from django.db.models import Q, QuerySet

from keyportal.teams.models import Membership, User
from keyportal.teams.openid.providers import identity_providers, sources
from keyportal.teams.openid.stored import StoredProvider

MAX_LISTED = 50


class Roles(NamedTuple):
    """That groups of a provider gave. They stay without it: if they ended with a provider that was
    deleted by mistake, so would the keys of all its people.
    """

    provider_id: str
    total: int
    teams: list[str]


class Effect(NamedTuple):
    """Of the end of a provider."""

    connected: int
    stranded: int
    names: list[str]
    """The first of those who could then not sign in."""
    left: Roles

    @property
    def rest(self) -> int:
        return self.stranded - len(self.names)


def effect_of_end(row: StoredProvider) -> Effect:
    connected = SocialAccount.objects.filter(provider=row.provider_id)
    ids = [provider.id for provider in identity_providers()]
    of_environment = [provider.id for provider in settings.OIDC_PROVIDERS]
    others = [id_ for id_ in ids if id_ != row.provider_id or id_ in of_environment]
    elsewhere = SocialAccount.objects.filter(provider__in=others)
    passkeys = Authenticator.objects.filter(type=Authenticator.Type.WEBAUTHN)
    people = User.objects.filter(is_active=True, pk__in=connected.values("user"))
    stranded = people.exclude(pk__in=elsewhere.values("user")).exclude(
        pk__in=passkeys.values("user")
    )
    if settings.PASSWORD_SIGN_IN:
        stranded = stranded.filter(
            Q(password="") | Q(password__startswith=UNUSABLE_PASSWORD_PREFIX)
        )
    names = stranded.order_by("username").values_list("username", flat=True)
    left = Membership.objects.filter(granted_by=row.provider_id)
    return Effect(
        people.count(),
        stranded.count(),
        list(names[:MAX_LISTED]),
        _roles(row.provider_id, left.none() if row.provider_id in of_environment else left),
    )


def left_roles() -> list[Roles]:
    """Of the providers that are no longer set up."""
    left = Membership.objects.exclude(granted_by__in={"", *sources()})
    ids = left.values_list("granted_by", flat=True).distinct()
    return [_roles(id_, left.filter(granted_by=id_)) for id_ in ids.order_by("granted_by")]


def _roles(provider_id: str, memberships: QuerySet[Membership]) -> Roles:
    names = memberships.values_list("team__name", flat=True).distinct().order_by("team__name")
    return Roles(provider_id, memberships.count(), list(names))

"""Who signs in at a provider, and who could not sign in without it."""

from typing import NamedTuple

from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX
from django.db.models import Q

from keyportal.teams.models import User
from keyportal.teams.openid.providers import identity_providers
from keyportal.teams.openid.stored import StoredProvider

MAX_LISTED = 50


class Effect(NamedTuple):
    """Of the end of a provider."""

    connected: int
    stranded: int
    names: list[str]
    """The first of those who could then not sign in."""

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
    return Effect(people.count(), stranded.count(), list(names[:MAX_LISTED]))

"""The ways to sign in."""

from collections.abc import Iterator

from django.conf import settings

from keyportal.server.doctor.findings import Finding, ok, problem
from keyportal.teams.openid.configuration import IdentityProvider
from keyportal.teams.openid.grants import teams_by_slug
from keyportal.teams.openid.providers import identity_providers as offered_providers
from keyportal.teams.openid.requests import ProviderFailed, discover
from keyportal.teams.openid.stored import StoredProvider


def identity_providers() -> Iterator[Finding]:
    providers = offered_providers()
    if not (providers or settings.PASSWORD_SIGN_IN):
        text = (
            "Nobody signs in with a password, and there is no identity provider. Add one on the "
            "operators' page Sign-in, or set KEYPORTAL_OIDC_PROVIDERS; `manage.py signinlink` "
            "prints a link to get in."
        )
        yield problem("sign-in", text)
    for row in StoredProvider.objects.filter(is_active=True):
        if not row.is_readable:
            text = "Its client secret can't be decrypted. Enter it again on the page Sign-in."
            yield problem(f"sign-in with {row}", text)
    for provider in providers:
        name = f"sign-in with {provider.id}"
        try:
            discover(provider)
        except ProviderFailed as error:
            yield problem(name, f"{error}. Check its issuer, and that it can be reached from here.")
        else:
            yield ok(name, f"Its discovery document at {provider.issuer} is right.")
        yield from _group_teams(name, provider)


def _group_teams(name: str, provider: IdentityProvider) -> Iterator[Finding]:
    named = {slug for roles in provider.groups.values() for slug in roles}
    if unknown := named - teams_by_slug(named).keys():
        teams = ", ".join(sorted(unknown))
        text = f"Its groups give roles in teams that are unknown: {teams}. Correct their slugs."
        yield problem(name, text)

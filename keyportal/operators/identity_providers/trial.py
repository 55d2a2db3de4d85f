"""Tries an identity provider as far as that goes without a person who signs in."""

from collections.abc import Iterator

import jwt

from keyportal.catalog.servers.trial import Step
from keyportal.teams.openid.configuration import IdentityProvider
from keyportal.teams.openid.id_token import usable_keys
from keyportal.teams.openid.provider import with_client
from keyportal.teams.openid.requests import (
    Metadata,
    ProviderFailed,
    discover,
    discovery_url,
    refusal_of,
)

REFUSED_CLIENT = {"invalid_client", "unauthorized_client"}
KNOWN_CLIENT = {"invalid_grant"}


def try_provider(provider: IdentityProvider, redirect_uri: str) -> Iterator[Step]:
    try:
        metadata = discover(provider)
    except ProviderFailed as error:
        yield Step("Discovery document", False, str(error)[:500])
        return
    yield Step("Discovery document", True, f"{discovery_url(provider)} is of this issuer.")
    yield Step("Sign-in page", True, metadata.authorization_endpoint)
    yield _keys(metadata)
    yield _scopes(provider, metadata)
    yield _client(provider, metadata, redirect_uri)


def _keys(metadata: Metadata) -> Step:
    try:
        count = len(usable_keys(metadata))
    except (ProviderFailed, jwt.PyJWTError) as error:
        return Step("Signing keys", False, str(error)[:500])
    return Step("Signing keys", count > 0, f"{metadata.jwks_uri} lists {count}.")


def _scopes(provider: IdentityProvider, metadata: Metadata) -> Step:
    listed = metadata.scopes_supported
    if not isinstance(listed, list):
        return Step("Scopes", None, "It doesn't say which ones it knows.")
    missing = ", ".join(sorted({*provider.scopes} - {*map(str, listed)}))
    text = f"It doesn't list {missing}." if missing else "It lists those that are asked for."
    return Step("Scopes", not missing, text)


def _client(provider: IdentityProvider, metadata: Metadata, redirect_uri: str) -> Step:
    """Send a code that no provider gave: one that knows the client refuses only the code."""
    fields = {
        "grant_type": "authorization_code",
        "code": "keyportal-test",
        "redirect_uri": redirect_uri,
        "code_verifier": "0" * 43,
    }
    name = "Client ID and secret"
    try:
        error = refusal_of(metadata.token_endpoint, *with_client(fields, provider, metadata))
    except ProviderFailed as failure:
        return Step(name, False, str(failure)[:500])
    if error in REFUSED_CLIENT:
        return Step(name, False, "It refuses them.")
    if error in KNOWN_CLIENT:
        return Step(name, True, "It accepts them, and refuses the code of this test, as it should.")
    return Step(name, None, "It doesn't say whether it knows them. The first sign-in shows it.")

"""Checks ID tokens (OpenID Connect Core 1.0, 3.1.3.7), and what all signed tokens have."""

import hmac
from typing import Any

import jwt

from keyportal.teams.openid.configuration import IdentityProvider
from keyportal.teams.openid.requests import Metadata, ProviderFailed, get_json

# Attack: a token signed with `none`, or with HMAC and the provider's public key as the secret.
ALGORITHMS = [
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
]
REQUIRED = ("iss", "aud", "sub", "exp", "iat", "nonce")
LEEWAY_SECONDS = 60
MAX_SUBJECT_LENGTH = 191  # As the column in which allauth stores it; the standard says 255.


def verify(
    token: Any, provider: IdentityProvider, metadata: Metadata, nonce: str
) -> dict[str, Any]:
    """The claims of the token. Raises `ProviderFailed`.

    The signature is checked although the token came from the provider by TLS: then a proxy that
    ends TLS can't forge a person.
    """
    claims = decode(token, provider, metadata, REQUIRED)
    _check_claims(claims, provider, nonce)
    return claims


def decode(
    token: Any, provider: IdentityProvider, metadata: Metadata, required: tuple[str, ...]
) -> dict[str, Any]:
    """The claims of a token that the provider signed for us. Raises `ProviderFailed`."""
    if not isinstance(token, str):
        raise ProviderFailed("the provider sent no token")
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            _signing_key(token, metadata),
            algorithms=ALGORITHMS,
            issuer=provider.issuer,
            audience=provider.client_id,
            leeway=LEEWAY_SECONDS,
            options={"require": list(required)},
        )
    # The last two: a time that is no number, or an endless one.
    except (jwt.PyJWTError, RecursionError, TypeError, OverflowError) as error:
        raise ProviderFailed(f"the token is not valid: {error}") from None
    if "sub" in claims:
        _check_subject(claims["sub"])
    return claims


def _check_subject(subject: str) -> None:
    if not subject or len(subject) > MAX_SUBJECT_LENGTH or not subject.isprintable():
        raise ProviderFailed("the token has no usable subject")


def _check_claims(claims: dict[str, Any], provider: IdentityProvider, nonce: str) -> None:
    # Attack: a token that was made for another sign-in is injected into this one.
    if not hmac.compare_digest(str(claims["nonce"]).encode(), nonce.encode()):
        raise ProviderFailed("the ID token has the nonce of another sign-in")
    # Attack: a token that was made for another application, which also names us.
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp", provider.client_id if not several else None) != provider.client_id:
        raise ProviderFailed("the ID token was made for another application")


def _signing_key(token: str, metadata: Metadata) -> jwt.PyJWK:
    """The provider's key with the id in the token, or its only one if the token names none."""
    key_id = jwt.get_unverified_header(token).get("kid")
    matching = [key for key in usable_keys(metadata) if key_id in (None, key.key_id)]
    if len(matching) != 1:
        raise ProviderFailed("the ID token is signed with a key that the provider does not list")
    return matching[0]


def usable_keys(metadata: Metadata) -> list[jwt.PyJWK]:
    """Raises `ProviderFailed`, or `jwt.PyJWTError` if none can be read."""
    document = get_json(metadata.jwks_uri)
    if not isinstance(document, dict):
        raise ProviderFailed(f"{metadata.jwks_uri} is not a list of keys")
    return [key for key in jwt.PyJWKSet.from_dict(document) if key.public_key_use in (None, "sig")]

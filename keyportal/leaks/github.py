"""GitHub's secret scanning: verifies that GitHub has signed a report.

The signature is ECDSA (P-256, SHA-256) over the raw body.
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from django.conf import settings

IDENTIFIER_HEADER = "Github-Public-Key-Identifier"
SIGNATURE_HEADER = "Github-Public-Key-Signature"
MAX_SIGNATURE_LENGTH = 200  # A P-256 signature is 96 characters of Base64.


class NotGitHub(Exception):
    """The signature is not GitHub's. The message is for the operator and quotes no body."""


class UnreadableKeys(ValueError):
    """The file of public keys can't be used; the message says why."""


class PublicKey(msgspec.Struct):
    key_identifier: str
    key: str


class PublicKeysFile(msgspec.Struct):
    public_keys: list[PublicKey]


def claims_to_be_github(headers: Mapping[str, str]) -> bool:
    """Whether the request has one of GitHub's headers, signed or forged."""
    return IDENTIFIER_HEADER in headers or SIGNATURE_HEADER in headers


def require_signature(body: bytes, headers: Mapping[str, str]) -> None:
    """Raises `NotGitHub` unless one of the configured keys has signed this body."""
    if not settings.GITHUB_KEYS_FILE:
        raise NotGitHub("KEYPORTAL_GITHUB_KEYS_FILE is not set")
    try:
        # Read for each report: GitHub changes its keys, and a new file must not need a restart.
        key = public_keys(Path(settings.GITHUB_KEYS_FILE))[headers.get(IDENTIFIER_HEADER, "")]
        signature = b64decode(
            headers.get(SIGNATURE_HEADER, "")[:MAX_SIGNATURE_LENGTH], validate=True
        )
        key.verify(signature, body, ec.ECDSA(SHA256()))
    except UnreadableKeys as error:
        raise NotGitHub(str(error)) from None
    except KeyError:
        raise NotGitHub("KEYPORTAL_GITHUB_KEYS_FILE has no key with this identifier") from None
    except (InvalidSignature, binascii.Error, ValueError):
        raise NotGitHub("the signature does not match the body") from None


def public_keys(file: Path) -> dict[str, ec.EllipticCurvePublicKey]:
    """GitHub's public keys by their identifiers.

    `file` has the JSON of `https://api.github.com/meta/public_keys/secret_scanning`. Raises
    `UnreadableKeys`.
    """
    try:
        published = msgspec.json.decode(file.read_bytes(), type=PublicKeysFile)
    except (OSError, msgspec.DecodeError) as error:
        raise UnreadableKeys(f"{file}: {error}") from None
    if not published.public_keys:
        raise UnreadableKeys(f"{file} has no keys")
    return {key.key_identifier: _public_key(key) for key in published.public_keys}


def _public_key(published: PublicKey) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(published.key.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise UnreadableKeys(f"the key {published.key_identifier[:64]!r} is not on curve P-256")
    return key

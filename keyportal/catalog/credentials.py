"""The upstreams' credentials at rest: Fernet, under keys of their own.

`SECRET_KEY` is not involved, so that rotating it never locks us out of a model server.
"""

from functools import cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class CredentialUnreadable(Exception):
    """None of the configured keys opens this credential."""


def new_key() -> str:
    return Fernet.generate_key().decode()


def encrypt(plaintext: str) -> str:
    """Under the newest key. Nothing stays nothing."""
    return _box(settings.CREDENTIAL_KEYS).encrypt(plaintext.encode()).decode() if plaintext else ""


def decrypt(ciphertext: str) -> str:
    """Under whichever key made it. Raises `CredentialUnreadable`."""
    if not ciphertext:
        return ""
    try:
        return _box(settings.CREDENTIAL_KEYS).decrypt(ciphertext.encode()).decode()
    except InvalidToken:
        raise CredentialUnreadable(
            "An upstream's credential can't be decrypted: KEYPORTAL_CREDENTIAL_KEYS "
            "no longer holds the key that encrypted it."
        ) from None


@cache
def _box(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])

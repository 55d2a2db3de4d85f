"""Encryption of secrets in the database, with Fernet and the keys in KEYPORTAL_CREDENTIAL_KEYS.

`SECRET_KEY` is not used, so that rotating it makes no secret unreadable.
"""

from functools import cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class Unreadable(Exception):
    """None of the configured keys decrypts this text."""

    # A page that displays something of it displays nothing.
    silent_variable_failure = True


def encrypt(plaintext: str) -> str:
    """Encrypt with the newest key. An empty text stays empty."""
    return (
        _fernet(settings.CREDENTIAL_KEYS).encrypt(plaintext.encode()).decode() if plaintext else ""
    )


def decrypt(ciphertext: str) -> str:
    """Decrypt with the key that encrypted it. Raises `Unreadable`."""
    if not ciphertext:
        return ""
    try:
        return _fernet(settings.CREDENTIAL_KEYS).decrypt(ciphertext.encode()).decode()
    except InvalidToken:
        raise Unreadable(
            "KEYPORTAL_CREDENTIAL_KEYS no longer contains the key that encrypted this."
        ) from None


@cache
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])

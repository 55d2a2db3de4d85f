"""Encryption of the model servers' credentials in the database, with Fernet and keys of its own.

`SECRET_KEY` is not used, so that rotating it doesn't make credentials unreadable.
"""

from functools import cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class CredentialUnreadable(Exception):
    """None of the configured keys decrypts this credential."""


def new_key() -> str:
    return Fernet.generate_key().decode()


def encrypt(plaintext: str) -> str:
    """Encrypt with the newest key. An empty text stays empty."""
    return (
        _fernet(settings.CREDENTIAL_KEYS).encrypt(plaintext.encode()).decode() if plaintext else ""
    )


def decrypt(ciphertext: str) -> str:
    """Decrypt with the key that encrypted it. Raises `CredentialUnreadable`."""
    if not ciphertext:
        return ""
    try:
        return _fernet(settings.CREDENTIAL_KEYS).decrypt(ciphertext.encode()).decode()
    except InvalidToken:
        raise CredentialUnreadable(
            "A model server's credential can't be decrypted: KEYPORTAL_CREDENTIAL_KEYS "
            "no longer contains the key that encrypted it."
        ) from None


@cache
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])

"""Encryption of the model servers' credentials in the database."""

from cryptography.fernet import Fernet

from keyportal.database import encryption
from keyportal.database.encryption import encrypt

__all__ = ["CredentialUnreadable", "decrypt", "encrypt", "new_key"]


class CredentialUnreadable(Exception):
    """None of the configured keys decrypts this credential."""


def new_key() -> str:
    return Fernet.generate_key().decode()


def decrypt(ciphertext: str) -> str:
    """Decrypt with the key that encrypted it. Raises `CredentialUnreadable`."""
    try:
        return encryption.decrypt(ciphertext)
    except encryption.Unreadable:
        raise CredentialUnreadable(
            "A model server's credential can't be decrypted: KEYPORTAL_CREDENTIAL_KEYS "
            "no longer contains the key that encrypted it."
        ) from None

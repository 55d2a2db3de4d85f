"""Identity providers that operators added in their pages, beside those of the environment."""

import re
from typing import Any

from django.core.validators import RegexValidator
from django.db import models

from keyportal.database import encryption
from keyportal.keys.keystring import require_no_key
from keyportal.teams.openid.configuration import ID_PATTERN, IdentityProvider


class StoredProvider(models.Model):
    """The columns are the fields of `IdentityProvider`, whose checks the form runs.

    It is in no other admin. Attack: staff who may change rows there add a provider of their own.
    """

    provider_id = models.CharField(
        "ID",
        max_length=40,
        unique=True,
        validators=[RegexValidator(ID_PATTERN, "Use lower-case letters, digits and hyphens.")],
        error_messages={"unique": "Another provider has this ID."},
    )
    name = models.CharField(max_length=40, validators=[require_no_key])
    # Attack: who signs in with the second one of an issuer keeps the roles that the first gave.
    issuer = models.CharField(
        max_length=500,
        unique=True,
        validators=[require_no_key],
        error_messages={"unique": "Another provider has this issuer."},
    )
    client_id = models.CharField("client ID", max_length=200, validators=[require_no_key])
    encrypted_secret = models.TextField(editable=False)
    scopes = models.CharField(
        max_length=200, default="openid email profile", validators=[require_no_key]
    )
    domains = models.CharField(max_length=1000, blank=True, validators=[require_no_key])
    create_accounts = models.BooleanField(default=False)
    trust_addresses = models.BooleanField(default=False)
    addresses_verified = models.BooleanField(default=False)
    groups_claim = models.CharField(
        "claim of groups", max_length=100, default="groups", validators=[require_no_key]
    )
    groups = models.JSONField(default=dict, blank=True)
    is_active = models.BooleanField(default=True)

    def __str__(self) -> str:
        return self.provider_id

    @property
    def client_secret(self) -> str:
        """Raises `encryption.Unreadable`."""
        return encryption.decrypt(self.encrypted_secret)

    @client_secret.setter
    def client_secret(self, plaintext: str) -> None:
        self.encrypted_secret = encryption.encrypt(plaintext)

    @property
    def is_readable(self) -> bool:
        try:
            return bool(self.client_secret)
        except encryption.Unreadable:
            return False

    @property
    def configuration(self) -> IdentityProvider:
        """Raises `encryption.Unreadable`."""
        copied: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                *("name", "issuer", "client_id", "client_secret", "groups_claim", "groups"),
                *("create_accounts", "trust_addresses", "addresses_verified"),
            )
        }
        return IdentityProvider(
            id=self.provider_id, scopes=words(self.scopes), domains=words(self.domains), **copied
        )


def words(text: str) -> tuple[str, ...]:
    return tuple(re.split(r"[\s,]+", text.strip(" ,\n"))) if text.strip(" ,\n") else ()

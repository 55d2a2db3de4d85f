"""Encryption of the model servers' credentials."""

import pytest
from django.db import connection
from pytest_django import Settings

from keyportal.catalog import credentials
from keyportal.catalog.models import Upstream

PLAIN = "an upstream's own token"


def test_encryption_round_trip() -> None:
    encrypted = credentials.encrypt(PLAIN)
    assert PLAIN not in encrypted
    assert credentials.decrypt(encrypted) == PLAIN


def test_the_same_text_never_encrypts_the_same() -> None:
    assert credentials.encrypt(PLAIN) != credentials.encrypt(PLAIN)


def test_empty_credential_stays_empty() -> None:
    assert credentials.encrypt("") == ""
    assert credentials.decrypt("") == ""


def test_an_older_key_still_opens_and_the_newest_encrypts(settings: Settings) -> None:
    old, new = credentials.new_key(), credentials.new_key()
    settings.CREDENTIAL_KEYS = (old,)
    made_before = credentials.encrypt(PLAIN)
    settings.CREDENTIAL_KEYS = (new, old)
    assert credentials.decrypt(made_before) == PLAIN
    made_after = credentials.encrypt(PLAIN)
    settings.CREDENTIAL_KEYS = (new,)
    assert credentials.decrypt(made_after) == PLAIN


def test_without_its_key_a_credential_is_unreadable_and_says_which_setting(
    settings: Settings,
) -> None:
    settings.CREDENTIAL_KEYS = (credentials.new_key(),)
    encrypted = credentials.encrypt(PLAIN)
    settings.CREDENTIAL_KEYS = (credentials.new_key(),)
    with pytest.raises(credentials.CredentialUnreadable, match="KEYPORTAL_CREDENTIAL_KEYS") as told:
        credentials.decrypt(encrypted)
    assert encrypted not in str(told.value)


@pytest.mark.parametrize("damaged", ["x", "not base64 at all!", "gAAAAA=="])
def test_a_damaged_credential_is_unreadable(damaged: str) -> None:
    with pytest.raises(credentials.CredentialUnreadable):
        credentials.decrypt(damaged)


def test_secret_key_is_not_used(settings: Settings) -> None:
    encrypted = credentials.encrypt(PLAIN)
    settings.SECRET_KEY = "another one"
    assert credentials.decrypt(encrypted) == PLAIN


def test_table_contains_no_plaintext(db: None) -> None:
    upstream = Upstream(name="u", base_url="http://127.0.0.1:8001/v1")
    upstream.credential = PLAIN
    upstream.save()
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM catalog_upstream")
        row = cursor.fetchone()
    assert "u" in row
    assert PLAIN not in str(row)
    assert Upstream.objects.get().credential == PLAIN
    assert PLAIN not in f"{upstream} {upstream!r}"

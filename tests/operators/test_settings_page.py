"""The page of the settings in force shows no secret."""

import os

import pytest
from django.conf import settings
from django.test import Client
from pytest_django import Settings

from keyportal.operators.settings_in_force import HIDDEN, settings_in_force
from tests.support import forked

pytestmark = pytest.mark.any_database

CANARY = "cAnAry0123456789"
PRINT_ALL = """
import django
django.setup()
from keyportal.operators.settings_in_force import settings_in_force
for setting in settings_in_force():
    print(*setting)
"""
# A credential key is 32 bytes in Base64.
CREDENTIAL_KEY = f"{CANARY}{'A' * 27}="


def test_page_lists_every_variable(operator: Client) -> None:
    text = operator.get("/operators/settings/").content.decode()
    for variable in settings.VARIABLES:
        assert f"<code>{variable}</code>" in text
    assert str(settings.MAX_BODY_BYTES) in text
    assert "Environment" in text
    assert "Default" in text


def test_no_value_of_a_secret_is_displayed() -> None:
    """In a process of its own, because settings are read once."""
    secret = {
        "SECRET_KEY": CANARY * 4,
        "KEYPORTAL_CREDENTIAL_KEYS": CREDENTIAL_KEY,
        "DATABASE_URL": f"postgresql://kate:{CANARY}@db.example.com:5433/kp?sslpassword={CANARY}",
        "EMAIL_URL": f"smtp+tls://kate:{CANARY}@mail.example.com:587",
    }
    environment = os.environ | secret | {"DJANGO_SETTINGS_MODULE": "keyportal.settings"}
    done = forked.run(["-c", PRINT_ALL], environment=environment)
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stdout
    assert f"SECRET_KEY {HIDDEN} True True" in done.stdout
    assert "DATABASE_URL postgresql://kate@db.example.com:5433/kp False True" in done.stdout
    assert "EMAIL_URL smtp://mail.example.com:587 False True" in done.stdout


def test_access_log_is_displayed_as_it_is_written(settings: Settings) -> None:
    for part, text in ((0.0, "off"), (0.01, "0.01"), (1.0, "on")):
        settings.ACCESS_LOG = part
        shown = {setting.variable: setting.value for setting in settings_in_force()}
        assert shown["KEYPORTAL_ACCESS_LOG"] == text


def test_new_text_is_hidden_until_it_is_listed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.VARIABLES = {"KEYPORTAL_PROVIDER", "KEYPORTAL_ROOMS", "KEYPORTAL_NOTHING"}
    settings.PROVIDER, settings.ROOMS = CANARY, 7
    monkeypatch.setenv("KEYPORTAL_PROVIDER", CANARY)
    nothing, provider, rooms = settings_in_force()
    assert (provider.value, provider.is_hidden) == (HIDDEN, True)
    assert (nothing.value, rooms.value) == ("", "7")

"""Settings from the environment: addresses, host names, trusted proxies."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import forked

READ = """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "keyportal.settings"
from django.conf import settings
names = "PUBLIC_URL ALLOWED_HOSTS CSRF_TRUSTED_ORIGINS IS_HTTPS SESSION_COOKIE_SECURE"
names += " CSRF_COOKIE_SECURE SECURE_HSTS_SECONDS SECURE_SSL_REDIRECT TRUSTED_PROXIES"
names += " SECURE_HSTS_INCLUDE_SUBDOMAINS SECURE_HSTS_PRELOAD CORS_ORIGINS BASE_PATH"
names += " SESSION_COOKIE_NAME CSRF_COOKIE_NAME SESSION_COOKIE_PATH CSRF_COOKIE_PATH"
names += " SESSION_COOKIE_DOMAIN CSRF_COOKIE_DOMAIN STATIC_URL SECURE_REDIRECT_EXEMPT"
print(json.dumps({name: getattr(settings, name) for name in names.split()}, default=str))
"""


def start(data: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Read the settings in a process with a minimal environment."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    defaults = {
        "KEYPORTAL_DATA": str(data),
        "SECRET_KEY": "x" * 50,
        "KEYPORTAL_CREDENTIAL_KEYS": "b25seS1mb3ItdGVzdHMtb25seS1mb3ItdGVzdHMtMTI=",
    }
    return forked.run(["-c", READ], environment=inherited | defaults | environment)


def read(data: Path, **environment: str) -> dict[str, Any]:
    done = start(data, **environment)
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def test_default_is_loopback_without_trusted_proxies(tmp_path: Path) -> None:
    values = read(tmp_path)
    assert values["PUBLIC_URL"] == "http://127.0.0.1:8000"
    assert values["ALLOWED_HOSTS"] == ["127.0.0.1", "[::1]", "localhost"]
    assert values["TRUSTED_PROXIES"] == []
    assert values["SESSION_COOKIE_SECURE"] is values["SECURE_SSL_REDIRECT"] is False
    assert values["SECURE_HSTS_SECONDS"] == 0
    # Over http, a browser refuses a cookie with the prefix `__Host-`.
    assert values["SESSION_COOKIE_NAME"] == "keyportal_session"


def test_an_https_address_hardens_cookies_and_transport(tmp_path: Path) -> None:
    values = read(tmp_path, KEYPORTAL_URL="https://keys.example.com/")
    assert values["PUBLIC_URL"] == "https://keys.example.com"
    assert values["ALLOWED_HOSTS"] == ["keys.example.com"]
    assert values["CSRF_TRUSTED_ORIGINS"] == ["https://keys.example.com"]
    for name in ("IS_HTTPS", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT"):
        assert values[name] is True
    assert values["SECURE_HSTS_SECONDS"] >= 31_536_000
    # A browser accepts the prefix only from this host, for all paths, with the flag Secure.
    for cookie in ("SESSION_COOKIE", "CSRF_COOKIE"):
        assert values[f"{cookie}_NAME"].startswith("__Host-keyportal_")
        assert (values[f"{cookie}_PATH"], values[f"{cookie}_DOMAIN"]) == ("/", None)
    # Other hosts of the domain may belong to others.
    assert values["SECURE_HSTS_INCLUDE_SUBDOMAINS"] is values["SECURE_HSTS_PRELOAD"] is False


def test_address_may_have_a_path(tmp_path: Path) -> None:
    values = read(tmp_path, KEYPORTAL_URL="https://tools.example.com/ai/key.portal/")
    assert values["PUBLIC_URL"] == "https://tools.example.com/ai/key.portal"
    assert values["CSRF_TRUSTED_ORIGINS"] == ["https://tools.example.com"]
    for name in ("BASE_PATH", "SESSION_COOKIE_PATH", "CSRF_COOKIE_PATH"):
        assert values[name] == "/ai/key.portal"
    # Not __Host-, with which a cookie is sent to all programs on the host.
    assert values["SESSION_COOKIE_NAME"] == "__Secure-keyportal_session"
    assert values["CSRF_COOKIE_NAME"] == "__Secure-keyportal_csrf"
    assert values["STATIC_URL"] == "/ai/key.portal/static/"
    # Django compares them with the path without its first slash.
    assert all(
        re.match(rule, "ai/key.portal/api/") or re.match(rule, "ai/key.portal/leaks/report")
        for rule in values["SECURE_REDIRECT_EXEMPT"]
    )
    assert not any(
        re.match(rule, "ai/keyxportal/api/") for rule in values["SECURE_REDIRECT_EXEMPT"]
    )


def test_listening_everywhere_allows_only_the_names_of_the_machine(tmp_path: Path) -> None:
    values = read(tmp_path, HOST="0.0.0.0")
    assert values["PUBLIC_URL"] == ""
    assert {"localhost", "127.0.0.1"} <= set(values["ALLOWED_HOSTS"])
    assert "*" not in values["ALLOWED_HOSTS"]


def test_an_ipv6_address_is_written_in_brackets(tmp_path: Path) -> None:
    values = read(tmp_path, HOST="::1", PORT="9000")
    assert values["PUBLIC_URL"] == "http://[::1]:9000"
    assert "[::1]" in values["ALLOWED_HOSTS"]


def test_trusted_proxies_are_networks_or_addresses(tmp_path: Path) -> None:
    for text in ("10.0.0.0/8,127.0.0.1,fd00::/8", " 10.0.0.0/8, 127.0.0.1 fd00::/8,"):
        values = read(tmp_path, KEYPORTAL_TRUSTED_PROXIES=text)
        assert values["TRUSTED_PROXIES"] == ["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"]


def test_origins_are_as_browsers_send_them(tmp_path: Path) -> None:
    assert read(tmp_path)["CORS_ORIGINS"] == []
    text = "https://App.example.com:443, http://localhost:5173,http://[::1]:80 tauri://localhost"
    assert read(tmp_path, KEYPORTAL_CORS_ORIGINS=text)["CORS_ORIGINS"] == [
        "https://app.example.com",
        "http://localhost:5173",
        "http://[::1]",
        "tauri://localhost",
    ]


@pytest.mark.parametrize(
    "sender", ["keys@example.com", "keys@mailhost", "Keyportal <keys@example.com>"]
)
def test_senders_of_mail(tmp_path: Path, sender: str) -> None:
    read(tmp_path, DEFAULT_FROM_EMAIL=sender)


@pytest.mark.parametrize(
    "environment",
    [
        {"DEFAULT_FROM_EMAIL": "Keyportal <keys>"},
        {"DEFAULT_FROM_EMAIL": "keys@"},
        {"DEFAULT_FROM_EMAIL": "keys@example.com\nBcc: charlie@example.com"},
        {"DEBUG": "2"},
        {"KEYPORTAL_LOG_FORMAT": "xml"},
        {"KEYPORTAL_TEAM_CREATION": "members"},
        {"KEYPORTAL_TEAM_SERVERS": "on"},
        {"KEYPORTAL_TEAM_SERVERS": "public https://api.example.com"},
        {"KEYPORTAL_TEAM_SERVERS": "off public"},
        {"KEYPORTAL_TEAM_SERVERS": "10.0.0.0/8 127.0.0.0/8"},
        {"KEYPORTAL_DB_POOLER": "session"},
        {"KEYPORTAL_CORS_ORIGINS": "https://app.example.com/"},
        {"KEYPORTAL_CORS_ORIGINS": "app.example.com"},
        {"PORT": "9" * 5000},
        {"KEYPORTAL_CORS_ORIGINS": "null"},
        {"KEYPORTAL_CORS_ORIGINS": "https://*.example.com"},
        {"KEYPORTAL_CORS_ORIGINS": "https://me@app.example.com"},
        {"KEYPORTAL_CORS_ORIGINS": "https://app.example.com, https://"},
        {"KEYPORTAL_TRUSTED_PROXIES": "everyone"},
        {"KEYPORTAL_TRUSTED_PROXIES": "10.0.0.1/8"},
        {"KEYPORTAL_URL": "keys.example.com"},
        {"KEYPORTAL_URL": "https://keys.example.com/v1"},
        {"KEYPORTAL_URL": "https://keys.example.com/models/keyportal"},
        {"KEYPORTAL_URL": "https://keys.example.com/a/../b"},
        {"KEYPORTAL_URL": "https://keys.example.com//portal"},
        {"KEYPORTAL_URL": "https://keys.example.com/port%61l"},
        {"KEYPORTAL_URL": "https://keys.example.com/<portal>"},
        {"KEYPORTAL_URL": "https://keys.example.com/portal?"},
        {"KEYPORTAL_URL": "https://keys.example.com/portal#"},
        {"KEYPORTAL_URL": "https://user@keys.example.com"},
        {"KEYPORTAL_URL": "ftp://keys.example.com"},
        {"KEYPORTAL_URL": "https://keys.example.com:port"},
    ],
    ids=lambda environment: next(iter(environment.values()))[:40],
)
def test_a_bad_value_names_its_variable(tmp_path: Path, environment: dict[str, str]) -> None:
    done = start(tmp_path, **environment)
    assert done.returncode != 0
    assert next(iter(environment)) in done.stderr.splitlines()[-1]

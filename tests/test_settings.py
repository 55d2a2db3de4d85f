"""Settings from the environment: where we are, whom we answer to, and whom we believe."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

READ = """
import json
from keyportal import settings
names = "PUBLIC_URL ALLOWED_HOSTS CSRF_TRUSTED_ORIGINS IS_HTTPS SESSION_COOKIE_SECURE"
names += " CSRF_COOKIE_SECURE SECURE_HSTS_SECONDS SECURE_SSL_REDIRECT TRUSTED_PROXIES"
names += " SECURE_HSTS_INCLUDE_SUBDOMAINS SECURE_HSTS_PRELOAD"
print(json.dumps({name: getattr(settings, name) for name in names.split()}, default=str))
"""


def start(data: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Read the settings in a process of its own, with nothing of ours in its environment."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given = {
        "KEYPORTAL_DATA": str(data),
        "SECRET_KEY": "x" * 50,
        "KEYPORTAL_CREDENTIAL_KEYS": "b25seS1mb3ItdGVzdHMtb25seS1mb3ItdGVzdHMtMTI=",
    }
    return subprocess.run(
        [sys.executable, "-c", READ],
        cwd=Path(__file__).parent.parent,
        env=kept | given | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def read(data: Path, **environment: str) -> dict[str, Any]:
    done = start(data, **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_by_default_we_are_on_loopback_and_believe_nobody(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found["PUBLIC_URL"] == "http://127.0.0.1:8000"
    assert found["ALLOWED_HOSTS"] == ["127.0.0.1", "[::1]", "localhost"]
    assert found["TRUSTED_PROXIES"] == []
    assert found["SESSION_COOKIE_SECURE"] is found["SECURE_SSL_REDIRECT"] is False
    assert found["SECURE_HSTS_SECONDS"] == 0


def test_an_https_address_hardens_cookies_and_transport(tmp_path: Path) -> None:
    found = read(tmp_path, KEYPORTAL_URL="https://keys.example.com/")
    assert found["PUBLIC_URL"] == "https://keys.example.com"
    assert found["ALLOWED_HOSTS"] == ["keys.example.com"]
    assert found["CSRF_TRUSTED_ORIGINS"] == ["https://keys.example.com"]
    for name in ("IS_HTTPS", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT"):
        assert found[name] is True
    assert found["SECURE_HSTS_SECONDS"] >= 31_536_000
    # Other names under the domain may be anybody's.
    assert found["SECURE_HSTS_INCLUDE_SUBDOMAINS"] is found["SECURE_HSTS_PRELOAD"] is False


def test_listening_everywhere_answers_to_the_machines_own_names_only(tmp_path: Path) -> None:
    found = read(tmp_path, HOST="0.0.0.0")
    assert found["PUBLIC_URL"] == ""
    assert {"localhost", "127.0.0.1"} <= set(found["ALLOWED_HOSTS"])
    assert "*" not in found["ALLOWED_HOSTS"]


def test_an_ipv6_address_is_written_in_brackets(tmp_path: Path) -> None:
    found = read(tmp_path, HOST="::1", PORT="9000")
    assert found["PUBLIC_URL"] == "http://[::1]:9000"
    assert "[::1]" in found["ALLOWED_HOSTS"]


def test_trusted_proxies_are_networks_or_addresses(tmp_path: Path) -> None:
    for given in ("10.0.0.0/8,127.0.0.1,fd00::/8", " 10.0.0.0/8, 127.0.0.1 fd00::/8,"):
        found = read(tmp_path, KEYPORTAL_TRUSTED_PROXIES=given)
        assert found["TRUSTED_PROXIES"] == ["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"]


@pytest.mark.parametrize(
    "environment",
    [
        {"KEYPORTAL_TRUSTED_PROXIES": "everyone"},
        {"KEYPORTAL_TRUSTED_PROXIES": "10.0.0.1/8"},
        {"KEYPORTAL_URL": "keys.example.com"},
        {"KEYPORTAL_URL": "https://keys.example.com/portal"},
        {"KEYPORTAL_URL": "https://user@keys.example.com"},
        {"KEYPORTAL_URL": "ftp://keys.example.com"},
        {"KEYPORTAL_URL": "https://keys.example.com:port"},
    ],
    ids=lambda environment: next(iter(environment.values())),
)
def test_a_bad_value_names_its_variable(tmp_path: Path, environment: dict[str, str]) -> None:
    done = start(tmp_path, **environment)
    assert done.returncode != 0
    assert next(iter(environment)) in done.stderr.splitlines()[-1]

"""System checks of the configuration."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import ec
from django.core import checks
from pytest_django import Settings

from keyportal.catalog.models import Upstream
from keyportal.checks import PROXY_VARIABLES
from keyportal.teams.models import Team
from tests.support.github import GitHubScanner


def messages_by_id(databases: list[str] | None = None) -> dict[str | None, str]:
    """The texts of our own messages by id, without Django's."""
    messages = checks.run_checks(databases=databases)
    return {m.id: m.msg for m in messages if m.id and m.id.startswith("keyportal.")}


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs the tests may be behind a proxy."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", PROXY_VARIABLES)
def test_start_says_that_proxies_are_not_obeyed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://user:word@proxy.example:3128")
    assert messages_by_id() == {
        "keyportal.I001": f"{name} is not obeyed: model servers are called directly."
    }


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("KEYPORTAL_TRUSTED_PROXY", "Did you mean KEYPORTAL_TRUSTED_PROXIES?"),
        ("KEYPORTAL_PORT", None),
        ("KEYPORTAL_COLOUR", None),
    ],
)
def test_a_misspelt_variable_is_warned_of(
    name: str, hint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "10.0.0.1")
    (message,) = [m for m in checks.run_checks() if m.id == "keyportal.W006"]
    assert message.msg == f"{name} is not a setting."
    assert "10.0.0.1" not in f"{message.msg} {message.hint}"  # It may be a secret.
    assert hint is None or message.hint == hint


def test_variables_that_kubernetes_sets_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    for name in ("SERVICE_HOST", "PORT", "PORT_8000_TCP_ADDR", "DB_SERVICE_PORT_HTTP"):
        monkeypatch.setenv(f"KEYPORTAL_{name}", "10.0.0.1")
    assert messages_by_id() == {}


def test_defaults_are_valid() -> None:
    assert messages_by_id() == {}


def test_a_missing_data_folder(settings: Settings, tmp_path: Path) -> None:
    settings.DATA_DIR = tmp_path / "nowhere"
    assert "does not exist" in messages_by_id()["keyportal.E001"]


def test_a_data_folder_that_can_not_be_written(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings.DATA_DIR = tmp_path
    # Root may write everywhere, so file modes would change nothing in a container.
    monkeypatch.setattr("os.access", lambda path, _: path != tmp_path)
    assert "can't be written" in messages_by_id()["keyportal.E001"]


@pytest.mark.parametrize(
    "prefixes",
    [(), ("",), ("sk-kp",), ("sk kp-",), ("schlüssel-",), ("sk-kp-", "a/b-"), ("x" * 40,)],
)
def test_bad_key_prefixes(settings: Settings, prefixes: tuple[str, ...]) -> None:
    settings.KEY_PREFIXES = prefixes
    assert "keyportal.E002" in messages_by_id()


@pytest.mark.parametrize(
    "prefixes", [(), ("",), ("mk",), ("mk kp-",), ("sk-kp-",), ("a-", "sk-kp-")]
)
def test_bad_management_key_prefixes(settings: Settings, prefixes: tuple[str, ...]) -> None:
    settings.MANAGEMENT_KEY_PREFIXES = prefixes
    assert "keyportal.E006" in messages_by_id()


@pytest.mark.parametrize("prefixes", [("sk-",), ("sk-kp-", "old_"), ("_",)])
def test_good_key_prefixes(settings: Settings, prefixes: tuple[str, ...]) -> None:
    settings.KEY_PREFIXES = prefixes
    assert messages_by_id() == {}


@pytest.mark.parametrize("bad", ["", "short", "ü" * 44, "=" * 44])
def test_invalid_credential_key_is_reported_but_not_shown(settings: Settings, bad: str) -> None:
    settings.CREDENTIAL_KEYS = (Fernet.generate_key().decode(), bad)
    message = messages_by_id()["keyportal.E003"]
    assert not bad or bad not in message


def test_no_credential_key_at_all(settings: Settings) -> None:
    settings.CREDENTIAL_KEYS = ()
    assert "keyportal.E003" in messages_by_id()


@pytest.mark.parametrize("url", ["http://keys.example.com", "http://10.0.0.7:8000"])
def test_plain_http_public_address_is_warned_of(settings: Settings, url: str) -> None:
    settings.PUBLIC_URL = url
    assert url in messages_by_id()["keyportal.W001"]


@pytest.mark.parametrize(
    "url", ["https://keys.example.com", "http://localhost:8000", "http://[::1]"]
)
def test_https_and_loopback_are_fine(settings: Settings, url: str) -> None:
    settings.PUBLIC_URL = url
    assert messages_by_id() == {}


def test_listening_everywhere_without_a_public_address(settings: Settings) -> None:
    settings.HOST, settings.LISTENS_EVERYWHERE, settings.PUBLIC_URL = "0.0.0.0", True, ""
    settings.ALLOWED_HOSTS = ["myhost", "10.0.0.7"]
    assert "myhost, 10.0.0.7" in messages_by_id()["keyportal.W002"]
    settings.PUBLIC_URL = "https://keys.example.com"
    assert messages_by_id() == {}


def test_https_without_a_trusted_proxy_is_warned_of(settings: Settings) -> None:
    settings.PUBLIC_URL, settings.IS_HTTPS = "https://keys.example.com", True
    assert "https://keys.example.com" in messages_by_id()["keyportal.W005"]
    settings.TRUSTED_PROXIES = (ip_network("127.0.0.1"),)
    assert messages_by_id() == {}


def test_debug_beyond_loopback_is_warned_of(settings: Settings) -> None:
    settings.DEBUG = True
    assert messages_by_id() == {}
    settings.HOST = "10.0.0.7"
    assert "keyportal.W003" in messages_by_id()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        ("no JSON", "malformed"),
        ('{"keys": []}', "missing required field"),
        ('{"public_keys": []}', "has no keys"),
        (
            '{"public_keys": [{"key_identifier": "abc", "key": "xyz"}]}',
            "'abc' is not on curve P-256",
        ),
    ],
)
def test_unusable_github_keys(
    settings: Settings, tmp_path: Path, text: str | None, reason: str
) -> None:
    file = tmp_path / "github_keys.json"
    if text is not None:
        file.write_text(text)
    settings.GITHUB_KEYS_FILE = str(file)
    assert reason in messages_by_id()["keyportal.E005"]


def test_a_key_of_github_on_another_curve(settings: Settings, tmp_path: Path) -> None:
    github = GitHubScanner()
    settings.GITHUB_KEYS_FILE = github.publish(tmp_path)
    assert messages_by_id() == {}
    github.key = ec.generate_private_key(ec.SECP384R1())
    github.publish(tmp_path)
    assert "not on curve P-256" in messages_by_id()["keyportal.E005"]


@pytest.mark.django_db
def test_a_stored_upstream_with_a_bad_address() -> None:
    Upstream.objects.create(name="good", base_url="http://127.0.0.1:8001/v1")
    Upstream.objects.create(name="cloud", base_url="http://169.254.169.254/v1")
    assert "cloud" in messages_by_id(["default"])["keyportal.E004"]
    assert messages_by_id() == {}  # Most commands run without the database checks.


@pytest.mark.django_db
def test_server_of_a_team_does_not_keep_others_from_starting() -> None:
    """Attack: an admin of a team stores an address that a later version refuses."""
    team = Team.objects.create(name="Acme", slug="acme")
    Upstream.objects.create(name="cloud", base_url="https://169.254.169.254/v1", team=team)
    assert messages_by_id(["default"]) == {}


@pytest.mark.django_db
def test_credential_that_no_key_decrypts(settings: Settings) -> None:
    upstream = Upstream(name="vllm", base_url="http://127.0.0.1:8001/v1")
    upstream.credential = "very-secret"
    upstream.save()
    assert messages_by_id(["default"]) == {}
    settings.CREDENTIAL_KEYS = (Fernet.generate_key().decode(),)
    assert "vllm" in messages_by_id(["default"])["keyportal.W004"]

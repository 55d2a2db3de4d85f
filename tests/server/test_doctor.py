"""manage.py doctor, on a healthy set-up and on broken ones."""

import json
import re
import shutil
import socket
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import call_command
from django.db import OperationalError, connection
from django.db.migrations.recorder import MigrationRecorder
from pytest_django import Settings

import keyportal
from keyportal import data_folder
from keyportal.catalog.models import BUILT_IN_URL, Route, ServedModel, Upstream
from keyportal.catalog.servers.health import WorkerHealth
from keyportal.catalog.servers.team_servers import AllowedServers
from keyportal.checks import PROXY_VARIABLES
from keyportal.server.doctor import database
from keyportal.teams.models import Team
from keyportal.teams.openid.configuration import IdentityProvider
from keyportal.teams.openid.stored import StoredProvider
from tests.support import identity_provider
from tests.support.health import report, sight
from tests.support.mail_server import MailServer
from tests.support.model_list_server import ModelListServer, running

pytestmark = pytest.mark.django_db
CREDENTIAL = "sk-very-secret"


@pytest.fixture
def portal(settings: Settings) -> Iterator[ModelListServer]:
    """What answers at the public address; its status and body are those of every path."""
    with running() as server:
        server.body = json.dumps({"version": keyportal.__version__}).encode()
        settings.PUBLIC_URL = server.url
        yield server


@pytest.fixture
def model_server() -> Iterator[ModelListServer]:
    """A model server, and an upstream with a credential and a route to its model."""
    with running() as server:
        server.lists("llama", "qwen")
        upstream = Upstream(name="vllm", base_url=f"{server.url}/v1")
        upstream.credential = CREDENTIAL
        upstream.save()
        served = ServedModel.objects.create(name="public/llama")
        Route.objects.create(model=served, upstream=upstream, upstream_model="llama")
        yield server


@pytest.fixture(autouse=True)
def healthy(
    settings: Settings,
    portal: ModelListServer,
    model_server: ModelListServer,
    mail_server: MailServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in PROXY_VARIABLES:  # The machine that runs the tests may be behind a proxy.
        monkeypatch.delenv(name, raising=False)
    settings.OUTBOX_EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.STATIC_ROOT = tmp_path
    (tmp_path / "staticfiles.json").touch()


def run(*arguments: str) -> tuple[int, str]:
    """The exit code of the command, and what it prints."""
    out, code = StringIO(), 0
    try:
        call_command("doctor", *arguments, stdout=out)
    except SystemExit as end:
        code = int(str(end.code))
    assert CREDENTIAL not in out.getvalue()
    return code, out.getvalue()


def examine() -> tuple[list[str], str]:
    """The names of the checks with a problem, and all that is printed."""
    code, text = run()
    problems = re.findall(r"^PROBLEM ([^:]+): ", text, re.MULTILINE)
    assert code == bool(problems)
    return problems, text


def examine_as_json() -> list[str]:
    """The names of the checks with a problem."""
    code, text = run("--json")
    found = json.loads(text)
    problems = [row["check"] for row in found["findings"] if row["is_problem"]]
    assert found["ok"] == (not problems)
    assert code == bool(problems)
    return problems


def test_a_healthy_installation(model_server: ModelListServer) -> None:
    Upstream.objects.create(name="demo", base_url=BUILT_IN_URL)
    problems, text = examine()
    assert problems == examine_as_json() == [], text
    for check in ("database", "migrations", "configuration", "secrets", "static files", "disk"):
        assert f"ok      {check}: " in text
    assert "vllm: It accepts the credential and lists 2 models." in text
    assert "The mail server accepts connections." in text
    assert model_server.asked[0] == ("/v1/models", f"Bearer {CREDENTIAL}")
    if connection.vendor == "postgresql":
        assert "statement_timeout 1min" in text
        assert "1 workers open up to 11;" in text


@pytest.mark.any_database
def test_identity_providers(settings: Settings) -> None:
    with identity_provider.running() as provider:
        fields: dict[str, Any] = {
            "name": "Corp",
            "client_id": "keyportal",
            "client_secret": "very-s3cret",
        }
        groups: dict[str, dict[str, Any]] = {"staff": {"nowhere": "member"}}
        up = IdentityProvider(id="up", issuer=provider.issuer, groups=groups, **fields)
        down = IdentityProvider(id="down", issuer="http://127.0.0.1:9", **fields)
        settings.OIDC_PROVIDERS = (up, down)
        problems, text = examine()
    assert problems == ["sign-in with up", "sign-in with down"]
    assert "give roles in teams that are unknown: nowhere." in text
    assert f"sign-in with up: Its discovery document at {provider.issuer} is right." in text
    assert "http://127.0.0.1:9/.well-known/openid-configuration: Connection refused" in text
    assert "very-s3cret" not in text


@pytest.mark.any_database
def test_no_way_to_sign_in(settings: Settings) -> None:
    settings.PASSWORD_SIGN_IN = False
    StoredProvider.objects.create(
        provider_id="corp", issuer="http://127.0.0.1:9", encrypted_secret="of-a-lost-key"
    )
    problems, text = examine()
    assert problems == ["sign-in", "sign-in with corp"]
    assert "`manage.py signinlink` prints a link" in text
    assert "Its client secret can't be decrypted." in text


def test_a_database_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_alias: str) -> bool:
        raise OperationalError("connection refused")

    monkeypatch.setattr(database, "is_read_only", fail)
    problems, text = examine()
    assert problems == ["database"]
    assert "connection refused. Check DATABASE_URL" in text
    assert "ok      mail" in text


def test_a_database_that_lags_or_has_another_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "is_read_only", lambda _: True)
    assert examine()[0] == ["database"]


@pytest.mark.postgresql
def test_clocks_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MAX_SKEW_SECONDS", -1.0)
    problems, text = examine()
    assert problems == ["clock"]
    assert "Use NTP" in text


@pytest.mark.postgresql
def test_more_connections_than_the_database_has(settings: Settings) -> None:
    pool = settings.DATABASES["default"]["OPTIONS"]["pool"]
    assert pool["max_size"] == database.POOL_CONNECTIONS
    settings.WEB_CONCURRENCY = 1000
    settings.BODY_DISK = 1  # Of each worker; so many would need more than this machine has.
    assert examine()[0] == ["connections"]


def test_a_missing_migration() -> None:
    MigrationRecorder(connection).record_unapplied("usage", "0001_initial")
    problems, text = examine()
    assert problems == ["migrations"]
    assert "usage.0001_initial" in text


@pytest.mark.any_database
def test_secrets_that_others_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, (name, _) in data_folder.SECRETS.items():
        monkeypatch.delenv(variable)
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(0o640)
    monkeypatch.setenv("KEYPORTAL_DATA", str(tmp_path))
    problems, text = examine()
    assert problems == ["secrets", "secrets"]
    assert f"chmod 600 {tmp_path / 'secret_key'}" in text


@pytest.mark.any_database
def test_model_servers_that_can_not_be_used(
    settings: Settings, model_server: ModelListServer
) -> None:
    down = Upstream.objects.create(name="down", base_url=f"http://127.0.0.1:{_closed_port()}/v1")
    Route.objects.update(upstream_model="gone")
    problems, text = examine()
    assert problems == [f"model server {down.name}", "model server vllm"]
    assert "Connection refused" in text
    assert "does not list gone" in text
    WorkerHealth.objects.all().delete()  # A server of another test may have left its report.
    report("one", {down: sight(60, "ConnectFailed")})
    problems, text = examine()
    assert problems == [
        f"model server {down.name}",
        "model server vllm",
        f"model server {down.name}",
    ]
    assert "Calls of the worker fail since" in text
    model_server.status = 401
    assert "answered 401" in examine()[1]
    settings.CREDENTIAL_KEYS = (Fernet.generate_key().decode(),)
    assert "model server vllm: Its credential can't be decrypted" in examine()[1]


@pytest.mark.any_database
def test_servers_of_teams_are_left_to_the_teams(settings: Settings) -> None:
    settings.TEAM_SERVERS = AllowedServers(is_public=True)
    team = Team.objects.create(name="Acme", slug="acme")
    theirs = Upstream.objects.create(name="theirs", base_url="https://192.0.2.7/v1", team=team)
    served = ServedModel.objects.create(name="acme/x", team=team)
    Route.objects.create(model=served, upstream=theirs, upstream_model="x")
    problems, text = examine()
    assert problems == []
    assert "theirs" not in text


@pytest.mark.any_database
def test_a_mail_server_that_is_gone(settings: Settings) -> None:
    settings.EMAIL_PORT = _closed_port()
    assert examine()[0] == ["mail"]
    settings.OUTBOX_EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
    problems, text = examine()
    assert problems == []
    assert "EMAIL_URL names no mail server" in text


@pytest.mark.any_database
def test_public_addresses_that_do_not_work(settings: Settings, portal: ModelListServer) -> None:
    portal.status = 426
    assert "Set KEYPORTAL_TRUSTED_PROXIES to the proxy" in examine()[1]
    portal.status, portal.body = 200, b'{"version": "0.0.1"}'
    assert "serves version 0.0.1" in examine()[1]
    portal.body = b"It works!"
    problems, text = examine()
    assert problems == ["public address"]
    assert "is not answered by Keyportal" in text
    settings.PUBLIC_URL = f"http://127.0.0.1:{_closed_port()}"
    assert "can't be reached from here" in examine()[1]
    settings.PUBLIC_URL = ""
    assert "KEYPORTAL_URL is not set" in examine()[1]


@pytest.mark.any_database
def test_a_full_disk_missing_files_and_a_wrong_setting(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "staticfiles.json").unlink()
    settings.KEY_PREFIXES = ("sk",)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    problems, text = examine()
    assert problems == ["configuration", "static files", "disk", "disk"] == examine_as_json()
    assert "(keyportal.E002)" in text


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])

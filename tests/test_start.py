"""The start as operators see it: real processes, each with its own data."""

import fcntl
import os
import re
import socket
import stat
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

import keyportal
from keyportal.serve import START_LOCK
from tests.support import installation
from tests.support.forked import Forked
from tests.support.installation import FIRST, Installation
from tests.support.server import wait_until

pytestmark = pytest.mark.long
PUBLIC_KEY = "b25seS1mb3ItdGVzdHMtb25seS1mb3ItdGVzdHMtMTI="
SECRETS = {"SECRET_KEY": "x" * 60, "KEYPORTAL_CREDENTIAL_KEYS": PUBLIC_KEY}


def _one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("keyportal: ")
    return lines[0]


@pytest.fixture
def place(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "data")


@pytest.fixture(scope="module")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return installation.first_start(tmp_path_factory.getbasetemp())


@pytest.fixture
def used_place(first_start: Installation, tmp_path: Path) -> Installation:
    """With a copy of the data folder of a first start with a demo."""
    return first_start.copy(tmp_path / "data")


def refused_start(place: Installation, **environment: str) -> str:
    """The single line that a start with these variables prints before it fails."""
    return _one_line(place.run(*START, **environment))


def test_the_first_start_prints_a_password_that_signs_in_and_the_second_keeps_all(
    first_start: Installation, used_place: Installation
) -> None:
    first = re.fullmatch(FIRST.format(port=r"\d+"), first_start.printed.read_text())
    assert first
    place = used_place
    secrets = [(place.data / name).read_text() for name in ("secret_key", "credential_keys")]
    manifest = place.data / "static" / "staticfiles.json"
    collected = manifest.stat().st_mtime_ns

    with place.serving("--demo", HOST="0.0.0.0") as process:
        place.wait_until_it_answers(process)
        assert place.can_sign_in("demo", first[1])
        assert not place.can_sign_in("demo", "wrong")
        process.terminate()
        out, err = process.communicate(timeout=120)
    assert out.startswith(f"Sign in at http://127.0.0.1:{place.port}/ as demo; a new password: ")
    assert out.endswith(".venv/bin/python manage.py changepassword demo\n")
    assert out.count("\n") == 1
    assert err.partition(" [INFO] ")[2].startswith(f"Keyportal {keyportal.__version__}\n")
    assert "HOST=0.0.0.0 listens on every address" in err  # Without KEYPORTAL_URL.
    assert secrets == [
        (place.data / name).read_text() for name in ("secret_key", "credential_keys")
    ]
    assert manifest.stat().st_mtime_ns == collected

    listed = place.manage("listteams")
    assert listed.stdout == "u-8105f7322477\t1\t20\tactive\tDemo\n"
    key = place.manage("keys", "create", "--team=u-8105f7322477", "--owner=demo", "--name=ci")
    assert key.stdout.startswith("sk-kp-"), key.stderr


def test_data_folder_is_private(first_start: Installation) -> None:
    place = first_start
    assert stat.S_IMODE(place.data.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in place.data.iterdir()}
    assert {"secret_key", "credential_keys", "static"} <= set(modes)
    assert all(mode & 0o077 == 0 for mode in modes.values()), modes
    assert modes["secret_key"] == modes["credential_keys"] == 0o600


def test_without_demo_there_is_no_user_and_secrets_of_the_environment_are_not_stored(
    tmp_path: Path,
) -> None:
    """In a data folder with an odd name, where `migrate` alone has made an empty database."""
    place = Installation(tmp_path / "a+b %41?#&ü")
    place.data.mkdir()
    place.environment |= SECRETS
    migrated = place.manage("migrate")
    assert migrated.returncode == 0, migrated.stderr
    listed = place.manage("listteams")
    assert (listed.returncode, listed.stdout) == (0, ""), listed.stderr
    done = place.prepare()
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert place.execute("SELECT * FROM teams_user") == []
    names = {file.name for file in place.data.iterdir()}
    assert {"keyportal.sqlite3", "static"} <= names
    assert not {"secret_key", "credential_keys"} & names


def test_changed_demo_is_not_restored_but_lost_static_files_are(used_place: Installation) -> None:
    place = used_place
    place.execute("DELETE FROM teams_membership")
    place.execute("UPDATE teams_user SET username = 'root'")
    place.execute("DELETE FROM catalog_route")
    manifest = place.data / "static" / "staticfiles.json"
    manifest.unlink()
    done = place.prepare("--demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Sign in at http://127.0.0.1:{place.port}/\n"
    for table in ("teams_membership", "teams_user WHERE username = 'demo'", "catalog_route"):
        assert place.execute(f"SELECT * FROM {table}") == [], table
    assert manifest.exists()


@pytest.mark.sqlite
def test_a_start_waits_for_another_one_with_its_data_folder(
    used_place: Installation, tmp_path: Path
) -> None:
    """And finds that nothing is left to do."""
    place = used_place
    with (tmp_path / "out").open("w+b") as out, (tmp_path / "err").open("w+b") as err:
        with (place.data / "start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            start = Forked(
                ["-c", installation.PREPARE, "--demo"],
                folder=installation.ROOT,
                environment=place.environment,
                out=out,
                err=err,
            )
            waits = re.compile(rf"-> FLOCK .* {start.pid} ")
            locks = Path("/proc/locks")
            wait_until(lambda: start.poll() is not None or waits.search(locks.read_text()), 250)
            assert start.poll() is None
        assert start.wait(250) == 0, (tmp_path / "err").read_text()
    assert "as demo; a new password:" in (tmp_path / "out").read_text()


@pytest.fixture
def database(place: Installation) -> Iterator[psycopg.Connection]:
    """A connection to an empty database on PostgreSQL; `place` uses it."""
    server = os.environ["DATABASE_URL"]
    name = f"start_{os.getpid()}_{place.port}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        url = urllib.parse.urlsplit(server)._replace(path=f"/{name}").geturl()
        place.environment["DATABASE_URL"] = url
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


WAITING = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"


@pytest.mark.postgresql
def test_a_start_waits_for_one_of_another_host_with_its_database(
    place: Installation, database: psycopg.Connection
) -> None:
    with ExitStack() as stack:
        with database.transaction():
            database.execute("SELECT pg_advisory_xact_lock(%s)", [START_LOCK])
            process = stack.enter_context(place.serving("--demo"))
            wait_until(lambda: database.execute(WAITING, [START_LOCK]).rowcount, 250)
            tables = "SELECT FROM pg_tables WHERE schemaname = 'public'"
            assert database.execute(tables).rowcount == 0
        place.wait_until_it_answers(process)
        process.terminate()
        output = process.communicate(timeout=120)[0]
    assert re.fullmatch(FIRST.format(port=place.port), output)


def test_a_port_in_use(place: Installation) -> None:
    with socket.create_server(("127.0.0.1", place.port)):
        line = refused_start(place)
    assert line == (
        f"keyportal: Can't listen on 127.0.0.1 port {place.port}: Address already in use. "
        f"Choose another address with HOST and PORT."
    )
    assert not (place.data / "keyportal.sqlite3").exists()


UNREACHABLE = "postgresql://u:hush@127.0.0.1:1/keyportal"
# (variables, what the line says)
MISTAKES = [
    ({"DATABASE_URL": "mysql://u:hush@h/db"}, "must begin with sqlite:/// or postgresql://"),
    ({"DATABASE_URL": "postgresql://u:hush@h:port/db"}, "DATABASE_URL can't be read"),
    ({"DATABASE_URL": "postgresql://u:hush@h"}, "DATABASE_URL can't be read"),
    ({"DATABASE_URL": "sqlite://keyportal.sqlite3"}, "three slashes"),
    ({"DATABASE_URL": "sqlite:///:memory:"}, "DATABASE_URL can't be read"),
    (
        {"DATABASE_URL": "sqlite:////nowhere/at/all.sqlite3"},
        "the folder /nowhere/at does not exist",
    ),
    ({"DATABASE_URL": UNREACHABLE}, "Connection refused"),
    ({"PORT": "http"}, "PORT must be a whole number"),
    ({"PORT": "65536"}, "PORT must be a whole number"),
    ({"WEB_CONCURRENCY": "0"}, "WEB_CONCURRENCY must be a whole number"),
    ({"KEYPORTAL_MAX_KEYS": "many"}, "KEYPORTAL_MAX_KEYS must be a whole number"),
    ({"KEYPORTAL_URL": "keys.example.com"}, "KEYPORTAL_URL must look like"),
    ({"KEYPORTAL_URL": "https://keys.example.com/a b"}, "KEYPORTAL_URL must look like"),
    ({"KEYPORTAL_URL": "https://keys.example.com/api"}, "KEYPORTAL_URL can't have the path /api"),
    ({"KEYPORTAL_URL": "https://[::1"}, "KEYPORTAL_URL must look like"),
    ({"KEYPORTAL_URL": "https://h:port"}, "KEYPORTAL_URL must look like"),
    ({"KEYPORTAL_URL": "https://user@h"}, "KEYPORTAL_URL must look like"),
    ({"KEYPORTAL_TRUSTED_PROXIES": "my-proxy"}, "KEYPORTAL_TRUSTED_PROXIES"),
    ({"KEYPORTAL_PROXY_HEADER": "x-real-ip"}, "KEYPORTAL_PROXY_HEADER must be x-forwarded-for"),
    ({"KEYPORTAL_SCHEDULER": "nightly"}, "KEYPORTAL_SCHEDULER must be on or off, not 'nightly'"),
    ({"DEBUG": "maybe"}, "DEBUG must be on or off, not 'maybe'"),
    ({"SECRET_KEY": "hush"}, "SECRET_KEY must have at least 32 characters"),
    ({"DEFAULT_FROM_EMAIL": "Keyportal"}, "DEFAULT_FROM_EMAIL must be an address such as"),
    (
        {"KEYPORTAL_LOG_LEVEL": "loud"},
        "KEYPORTAL_LOG_LEVEL must be info, debug, warning, error or critical",
    ),
    ({"EMAIL_URL": "pigeon://coop"}, "EMAIL_URL can't be read"),
    ({"EMAIL_URL": "smtp://u:hush@h:port"}, "EMAIL_URL can't be read"),
]


START = ["-m", "keyportal.serve", "--demo"]
COMMAND = ["manage.py", "listteams"]


def test_configuration_error_is_one_line_without_a_traceback(place: Installation) -> None:
    place.data.mkdir()
    runs = [(START, mistake, why) for mistake, why in MISTAKES]
    runs += [(COMMAND, mistake, why) for mistake, why in (MISTAKES[0], MISTAKES[6])]
    for command, mistake, why in runs:
        line = _one_line(place.run(*command, **SECRETS | mistake))
        assert why in line
        assert "hush" not in line


def test_a_file_that_is_no_database_is_named(place: Installation) -> None:
    place.data.mkdir()
    file = place.data / "keyportal.sqlite3"
    file.write_bytes(b"This was a database once. " * 1000)
    for command in (START, COMMAND):
        line = _one_line(place.run(*command, **SECRETS))
        assert f"{file} can't be read: file is not a database. Restore it from a backup." in line


def test_failed_system_check_stops_start_and_commands(place: Installation) -> None:
    """manage.py reports it in Django's own format."""
    runs = (START, COMMAND)
    start, command = (place.run(*run, KEYPORTAL_CREDENTIAL_KEYS="hush") for run in runs)
    assert command.returncode != 0
    for text in (_one_line(start), command.stderr):
        assert "keyportal.E003" in text
        assert "Traceback" not in text
        assert "hush" not in text


def test_a_data_folder_that_can_not_be_made(place: Installation) -> None:
    place.data.write_text("a file, not a folder")
    assert "can't be written: File exists. Choose another one with" in refused_start(place)
    assert "SECRET_KEY is not set" in _one_line(place.manage("listteams"))
    place.environment["KEYPORTAL_DATA"] = str(place.data / "below")
    assert "can't be written: Not a directory" in refused_start(place)


def test_host_of_another_machine(place: Installation) -> None:
    assert "Can't listen on 192.0.2.1" in refused_start(place, HOST="192.0.2.1")


def test_database_from_before_the_first_release_is_refused(
    used_place: Installation,
) -> None:
    place = used_place
    place.execute(
        "INSERT INTO django_migrations (app, name, applied)"
        " VALUES ('activity', '0001_initial', '2026-01-01')"
    )
    assert "was made before Keyportal 0.1.0" in refused_start(place)


def test_the_version_is_printed_without_any_setting(place: Installation) -> None:
    runs = (["manage.py", "version"], ["manage.py", "--version"], [*START[:2], "--version"])
    for run in runs:
        done = place.run(*run, PORT="http")
        assert (done.returncode, done.stdout) == (0, f"{keyportal.__version__}\n")


def test_commands_without_any_secret_stop(place: Installation) -> None:
    line = _one_line(place.manage("listteams"))
    assert "SECRET_KEY is not set" in line
    assert "set KEYPORTAL_DATA" in line


def test_invalid_stored_upstream_stops_the_start_and_can_be_corrected(
    used_place: Installation,
) -> None:
    place = used_place
    place.execute("UPDATE catalog_upstream SET base_url = 'gopher:'")
    line = refused_start(place)
    assert "The upstream loopback has invalid settings" in line
    assert "manage.py add_upstream loopback URL" in line
    assert place.manage("check", "--database", "default").returncode == 1
    assert place.manage("add_upstream", "loopback", "loopback:").returncode == 0
    assert place.manage("check", "--database", "default").returncode == 0


def test_the_settings_pass_the_deployment_check(used_place: Installation) -> None:
    checked = used_place.manage(
        "check",
        "--deploy",
        "--fail-level=WARNING",
        KEYPORTAL_URL="https://keys.example.com",
        KEYPORTAL_TRUSTED_PROXIES="127.0.0.1",
    )
    assert checked.returncode == 0, checked.stderr

"""The start as operators see it: real processes, each with its own data."""

import fcntl
import http.cookiejar
import os
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import connection

import keyportal
from tests.support import forked
from tests.support.server import free_port

pytestmark = pytest.mark.long
ROOT = Path(__file__).parent.parent
PUBLIC_KEY = "b25seS1mb3ItdGVzdHMtb25seS1mb3ItdGVzdHMtMTI="


class Installation:
    """A data folder, a port, and an environment with only these variables."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.printed = data.parent / "printed"
        """What the first start printed."""
        self.port = free_port()
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        # If coverage is on, it also measures the processes that tests start.
        environment |= {name: text for name, text in os.environ.items() if name.startswith("COV")}
        self.environment = environment | {"KEYPORTAL_DATA": str(data), "PORT": str(self.port)}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return forked.run(arguments, environment=self.environment | environment)

    def manage(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("manage.py", *arguments, **environment)

    def execute(self, statement: str) -> list[Any]:
        """Run a statement in the SQLite file while no server runs."""
        with closing(sqlite3.connect(self.data / "keyportal.sqlite3")) as database, database:
            return database.execute(statement).fetchall()

    def refused_start(self, **environment: str) -> str:
        """The single line that a start with these variables prints before it fails."""
        return _one_line(self.run("-m", "keyportal.serve", "--demo", **environment))

    def started(self, *arguments: str, **environment: str) -> tuple[str, str]:
        """Start, wait for a response, stop. Returns standard output and standard error."""
        with self.serving(*arguments, **environment) as process:
            self.wait_until_it_answers(process)
            process.terminate()
            return process.communicate(timeout=120)

    def serving(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "keyportal.serve", *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/accounts/login/"

    def wait_until_it_answers(self, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 250
        while time.monotonic() < deadline and process.poll() is None:
            # A response, not only a connection: gunicorn listens before it has a worker.
            with suppress(OSError), urllib.request.urlopen(self.url) as answer:
                answer.read()
                return
            time.sleep(0.05)
        process.kill()
        pytest.fail("\n".join(process.communicate()))

    def can_sign_in(self, user: str, password: str) -> bool:
        """Sign in with the form, like a browser."""
        jar = http.cookiejar.CookieJar()
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar)
        )
        with opener.open(self.url) as page:
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.read().decode())
        assert token
        form = {"login": user, "password": password, "csrfmiddlewaretoken": token[1]}
        with opener.open(self.url, urllib.parse.urlencode(form).encode()) as page:
            page.read()
        return any(cookie.name == "keyportal_session" for cookie in jar)


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


@pytest.fixture
def database(place: Installation) -> Iterator[str]:
    """An empty database of the vendor that the tests run on; `place` uses it."""
    if connection.vendor == "sqlite":
        yield ""
        return
    import psycopg

    server = os.environ["DATABASE_URL"]
    name = f"start_{os.getpid()}_{place.port}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        url = urllib.parse.urlsplit(server)._replace(path=f"/{name}").geturl()
        place.environment["DATABASE_URL"] = url
        yield url
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="module")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation that was started with a demo once, because migrating takes seconds."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    place = Installation(tmp_path_factory.getbasetemp().parent / f"first-start-{run}" / "data")
    place.data.parent.mkdir(exist_ok=True)
    with (place.data.parent / "lock").open("w") as lock:
        # All processes of this test run share it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.data.exists():
            place.printed.write_text(place.started("--demo")[0])
    return place


@pytest.fixture
def used_place(place: Installation, first_start: Installation) -> Installation:
    """With a copy of the data folder of a first start with a demo."""
    shutil.copytree(first_start.data, place.data)
    return place


FIRST = r"Sign in at http://127\.0\.0\.1:{port}/ as demo with password (\w{{20}})\n"


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
    """In a data folder with an odd name."""
    place = Installation(tmp_path / "a+b %41?#&ü")
    secrets = {"SECRET_KEY": "x" * 60, "KEYPORTAL_CREDENTIAL_KEYS": PUBLIC_KEY}
    out, _ = place.started(**secrets)
    assert out == ""
    assert (place.data / "keyportal.sqlite3").exists()
    listed = place.manage("listteams", **secrets)
    assert (listed.returncode, listed.stdout) == (0, "")
    assert not {"secret_key", "credential_keys"} & {file.name for file in place.data.iterdir()}


def test_changed_demo_is_not_restored_but_lost_static_files_are(used_place: Installation) -> None:
    place = used_place
    place.execute("DELETE FROM teams_membership")
    place.execute("UPDATE teams_user SET username = 'root'")
    place.execute("DELETE FROM catalog_route")
    manifest = place.data / "static" / "staticfiles.json"
    manifest.unlink()
    out, _ = place.started("--demo")
    assert out == f"Sign in at http://127.0.0.1:{place.port}/\n"
    for table in ("teams_membership", "teams_user WHERE username = 'demo'", "catalog_route"):
        assert place.execute(f"SELECT * FROM {table}") == [], table
    assert manifest.exists()


def test_two_starts_at_the_same_time_agree(place: Installation, database: str) -> None:
    """The second one waits for the first, and has nothing left to do."""
    second = Installation(place.data)
    second.environment |= {k: v for k, v in place.environment.items() if k != "PORT"}
    with place.serving("--demo") as first_process, second.serving("--demo") as second_process:
        place.wait_until_it_answers(first_process)
        second.wait_until_it_answers(second_process)
        first_process.terminate()
        second_process.terminate()
        output = first_process.communicate(timeout=120)[0]
        output += second_process.communicate(timeout=120)[0]
    assert output.count("with password") == 1
    assert output.count("a new password:") == 1


def test_a_port_in_use(place: Installation) -> None:
    with socket.create_server(("127.0.0.1", place.port)):
        line = place.refused_start()
    assert line == (
        f"keyportal: Can't listen on 127.0.0.1 port {place.port}: Address already in use. "
        f"Choose another address with HOST and PORT."
    )
    assert not (place.data / "keyportal.sqlite3").exists()


UNREACHABLE = "postgresql://u:hush@127.0.0.1:1/keyportal"
# (variables, what the line says): refused by the start and by manage.py alike.
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
    secrets = {"SECRET_KEY": "x" * 60, "KEYPORTAL_CREDENTIAL_KEYS": PUBLIC_KEY}
    for mistake, why in MISTAKES:
        for command in (START, COMMAND):
            line = _one_line(place.run(*command, **secrets | mistake))
            assert why in line
            assert "hush" not in line


def test_a_file_that_is_no_database_is_named(place: Installation) -> None:
    place.data.mkdir()
    file = place.data / "keyportal.sqlite3"
    file.write_bytes(b"This was a database once. " * 1000)
    secrets = {"SECRET_KEY": "x" * 60, "KEYPORTAL_CREDENTIAL_KEYS": PUBLIC_KEY}
    for command in (START, COMMAND):
        line = _one_line(place.run(*command, **secrets))
        assert f"{file} can't be read: file is not a database. Restore it from a backup." in line


# These are reported by system checks, in manage.py in Django's own format.
FAILED_CHECKS = [
    ({"KEYPORTAL_KEY_PREFIXES": "sk"}, "E002"),
    ({"KEYPORTAL_CREDENTIAL_KEYS": "hush"}, "E003"),
]


def test_failed_system_check_stops_start_and_commands(place: Installation) -> None:
    for environment, id_ in FAILED_CHECKS:
        start, command = (place.run(*run, **environment) for run in (START, COMMAND))
        assert command.returncode != 0
        for text in (_one_line(start), command.stderr):
            assert f"keyportal.{id_}" in text
            assert "Traceback" not in text
            assert "hush" not in text


def test_a_data_folder_that_can_not_be_made(place: Installation) -> None:
    place.data.write_text("a file, not a folder")
    assert "can't be written: File exists. Choose another one with" in place.refused_start()
    assert "SECRET_KEY is not set" in _one_line(place.manage("listteams"))
    place.environment["KEYPORTAL_DATA"] = str(place.data / "below")
    assert "can't be written: Not a directory" in place.refused_start()


def test_host_of_another_machine(place: Installation) -> None:
    assert "Can't listen on 192.0.2.1" in place.refused_start(HOST="192.0.2.1")


def test_migrate_alone_makes_an_empty_database(place: Installation, database: str) -> None:
    place.data.mkdir()
    place.environment |= {
        "SECRET_KEY": "only-for-this-test-" + "x" * 40,
        "KEYPORTAL_CREDENTIAL_KEYS": Fernet.generate_key().decode(),
    }
    migrated = place.manage("migrate")
    assert migrated.returncode == 0, migrated.stderr
    listed = place.manage("listteams")
    assert listed.returncode == 0, listed.stderr


def test_database_from_before_the_first_release_is_refused(
    used_place: Installation,
) -> None:
    place = used_place
    place.execute(
        "INSERT INTO django_migrations (app, name, applied)"
        " VALUES ('activity', '0001_initial', '2026-01-01')"
    )
    assert "was made before Keyportal 0.1.0" in place.refused_start()


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
    line = place.refused_start()
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

"""`python -m keyportal.serve [--demo]`: prepares everything, then replaces itself with gunicorn.

Each start checks the data folder and the database and does only what is missing, also after a
crash, an update or a restored backup.
"""

import argparse
import fcntl
import hashlib
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

import django
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.db.migrations.recorder import MigrationRecorder

import keyportal
from keyportal import data_folder
from keyportal.server.health import missing_migrations
from keyportal.server.startup import disable_pool, startup_errors

START_LOCK = 0x6B6579  # "key": the number of the advisory lock that all starts use.
LOCK_ALIAS = "admission"
# A migration may take long, and the start of another host waits for it.
START_SETTINGS = {
    "statement_timeout": "0",
    "lock_timeout": "300s",
    "idle_in_transaction_session_timeout": "0",
}


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m keyportal.serve", description=__doc__)
    parser.add_argument("--demo", action="store_true", help="create a demo team, user and model")
    parser.add_argument("--version", action="version", version=keyportal.__version__)
    arguments = parser.parse_args()
    os.umask(0o077)  # Only our user may read the data folder.
    with startup_errors():
        data_folder.prepare()  # Before a setting is read, because the settings read the secrets.
        disable_pool()
        prepare(demo=arguments.demo)
    become_gunicorn()


def prepare(*, demo: bool) -> None:
    require_free_port()
    django.setup()
    run_system_checks()
    with _start_lock():
        migrate()
        run_system_checks(databases=["default"])
        collect_static_files()
        if demo:
            announce_demo()
    connection.close()


def require_free_port() -> None:
    """Raise `ImproperlyConfigured` if gunicorn can't listen on the configured address.

    Like for gunicorn, a port whose last connections are still closing is free.
    """
    _require_free(settings.HOST, settings.PORT, "HOST and PORT")
    if settings.METRICS_PORT:
        _require_free(
            settings.METRICS_HOST,
            settings.METRICS_PORT,
            "KEYPORTAL_METRICS_HOST and KEYPORTAL_METRICS_PORT",
        )


def _require_free(host: str, port: int, variables: str) -> None:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, _, _, address = addresses[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise ImproperlyConfigured(
            f"Can't listen on {host} port {port}: {error.strerror}. "
            f"Choose another address with {variables}."
        ) from error


def run_system_checks(databases: list[str] | None = None) -> None:
    """Run the checks that need no database, or only those of the databases.

    Errors stop the start; warnings are printed.
    """
    tags = [checks.Tags.database] if databases else None
    messages = checks.run_checks(databases=databases, tags=tags)
    errors = [message for message in messages if message.level >= checks.ERROR]
    for message in messages:
        if message.level < checks.ERROR:
            print(f"keyportal: {_sentence(message)}", file=sys.stderr)  # noqa: T201
    if errors:
        raise ImproperlyConfigured(" ".join(map(_sentence, errors)))


def migrate() -> None:
    """Bring the tables up to date. A database from before 0.1.0 is refused."""
    if ("activity", "0001_initial") in MigrationRecorder(connection).applied_migrations():
        raise ImproperlyConfigured(
            "This database was made before Keyportal 0.1.0, which has other tables. Choose an "
            "empty one with DATABASE_URL or KEYPORTAL_DATA."
        )
    if missing_migrations(connection.alias):
        call_command("migrate", verbosity=0, interactive=False)


def collect_static_files() -> None:
    """Collect the static files if one has changed. Hashing and compressing them takes seconds."""
    fingerprint_file = data_folder.folder() / "static.fingerprint"
    manifest = Path(settings.STATIC_ROOT) / "staticfiles.json"
    fingerprint = static_fingerprint()
    if (
        manifest.exists()
        and fingerprint_file.exists()
        and fingerprint_file.read_text() == fingerprint
    ):
        return
    call_command("collectstatic", verbosity=0, interactive=False)
    fingerprint_file.write_text(fingerprint)


def static_fingerprint() -> str:
    from django.contrib.staticfiles.finders import get_finders

    digest = hashlib.sha256(settings.STORAGES["staticfiles"]["BACKEND"].encode())
    for finder in get_finders():
        for path, storage in finder.list([]):
            stat = Path(storage.path(path)).stat()
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def announce_demo() -> None:
    from keyportal.catalog import demo

    password = demo.create()
    sign_in = f"Sign in at {settings.PUBLIC_URL or f'http://127.0.0.1:{settings.PORT}'}/"
    if password:
        print(f"{sign_in} as {demo.USER} with password {password}")  # noqa: T201
    elif demo.exists():
        print(f"{sign_in} as {demo.USER}; a new password: {_password_command(demo.USER)}")  # noqa: T201
    else:
        print(sign_in)  # noqa: T201


def become_gunicorn() -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    options = ["-c", "python:keyportal.server.gunicorn_conf"]
    os.execv(  # noqa: S606 - no shell, and no input from outside
        sys.executable,
        [sys.executable, "-m", "gunicorn", *options, "keyportal.asgi:application"],
    )


@contextmanager
def _start_lock() -> Iterator[None]:
    """Allow one start at a time with this data folder, and with this database from all hosts."""
    with (data_folder.folder() / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _database_lock() if connection.vendor == "postgresql" else nullcontext():
            yield


@contextmanager
def _database_lock() -> Iterator[None]:
    """It belongs to a transaction on another connection: a pooler shares sessions."""
    for alias in (connection.alias, LOCK_ALIAS):
        connections[alias].settings_dict["TRANSACTION_SETTINGS"] = START_SETTINGS
    with transaction.atomic(using=LOCK_ALIAS), connections[LOCK_ALIAS].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [START_LOCK])
        yield
    connections[LOCK_ALIAS].close()


def _password_command(user: str) -> str:
    """Return the command that sets a new password in the database of this start."""
    names = [name for name in ("KEYPORTAL_DATA", "DATABASE_URL") if os.environ.get(name)]
    # A database URL may contain a password, and this line may be written to a log.
    variables = [
        f"{name}={shlex.quote(os.environ[name]) if name == 'KEYPORTAL_DATA' else '...'}"
        for name in names
    ]
    return " ".join([*variables, ".venv/bin/python manage.py changepassword", user])


def _sentence(message: checks.CheckMessage) -> str:
    return f"{message.msg} {message.hint or ''} ({message.id})"


if __name__ == "__main__":
    main()

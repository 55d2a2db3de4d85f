"""The start: `python -m keyportal.serve [--demo]` prepares everything, then becomes gunicorn.

What is to be done is decided by asking the data folder and the database, each time, so a start
after a crash, an update or a restored back-up does what is missing and nothing else.
"""

import argparse
import fcntl
import hashlib
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import django
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from keyportal import data_folder
from keyportal.server.startup import disable_pool, startup_errors

START_LOCK = 0x6B6579  # "key": one number that all our starts on one PostgreSQL agree on.


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m keyportal.serve", description=__doc__)
    parser.add_argument("--demo", action="store_true", help="make a demo team, user and model")
    arguments = parser.parse_args()
    os.umask(0o077)  # The database and all else in the data folder are ours alone.
    with startup_errors():
        data_folder.prepare()  # Before the first setting is read: settings need the secrets.
        disable_pool()
        prepare(demo=arguments.demo)
    become_gunicorn()


def prepare(*, demo: bool) -> None:
    require_free_port()
    django.setup()
    require_sound_configuration()
    with _one_start_at_a_time():
        migrate()
        require_sound_configuration(databases=["default"])
        collect_static_files()
        if demo:
            announce_demo()
    connection.close()


def require_free_port() -> None:
    """As gunicorn binds: a port whose last connections are still closing counts as free."""
    try:
        found = socket.getaddrinfo(settings.HOST, settings.PORT, type=socket.SOCK_STREAM)
        family, kind, _, _, address = found[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise ImproperlyConfigured(
            f"Can't listen on {settings.HOST} port {settings.PORT}: {error.strerror}. "
            f"PORT and HOST choose another."
        ) from error


def require_sound_configuration(databases: list[str] | None = None) -> None:
    """Errors stop the start; warnings are told once, before the database is looked at."""
    tags = [checks.Tags.database] if databases else None
    found = checks.run_checks(databases=databases, tags=tags)
    errors = [message for message in found if message.level >= checks.ERROR]
    for message in found:
        if message.level < checks.ERROR:
            print(f"keyportal: {_sentence(message)}", file=sys.stderr)  # noqa: T201
    if errors:
        raise ImproperlyConfigured(" ".join(map(_sentence, errors)))


def migrate() -> None:
    """Bring the tables up to date. A database whose tables are older than 0.1.0 is refused."""
    executor = MigrationExecutor(connection)
    if ("activity", "0001_initial") in executor.loader.applied_migrations:
        raise ImproperlyConfigured(
            "This database was made before Keyportal 0.1.0, whose tables are new: choose an empty "
            "one with DATABASE_URL or KEYPORTAL_DATA."
        )
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        call_command("migrate", verbosity=0, interactive=False)


def collect_static_files() -> None:
    """Copying, hashing and compressing takes seconds, so only when a file has changed."""
    mark = data_folder.folder() / "static.fingerprint"
    manifest = Path(settings.STATIC_ROOT) / "staticfiles.json"
    fingerprint = static_fingerprint()
    if manifest.exists() and mark.exists() and mark.read_text() == fingerprint:
        return
    call_command("collectstatic", verbosity=0, interactive=False)
    mark.write_text(fingerprint)


def static_fingerprint() -> str:
    from django.contrib.staticfiles.finders import get_finders

    digest = hashlib.sha256(settings.STORAGES["staticfiles"]["BACKEND"].encode())
    for finder in get_finders():
        for path, storage in finder.list([]):
            found = Path(storage.path(path)).stat()
            digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def announce_demo() -> None:
    from keyportal.catalog import demo

    password = demo.create()
    where = f"Sign in at {settings.PUBLIC_URL or f'http://127.0.0.1:{settings.PORT}'}/"
    if password:
        print(f"{where} as {demo.USER} with password {password}")  # noqa: T201
    elif demo.exists():
        print(f"{where} as {demo.USER}; a new password: {_new_password(demo.USER)}")  # noqa: T201
    else:
        print(where)  # noqa: T201


def become_gunicorn() -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    configuration = ["-c", "python:keyportal.server.gunicorn_conf"]
    os.execv(  # noqa: S606 - no shell, and nothing of it comes from outside
        sys.executable,
        [sys.executable, "-m", "gunicorn", *configuration, "keyportal.asgi:application"],
    )


@contextmanager
def _one_start_at_a_time() -> Iterator[None]:
    """One on this data folder, and one on this database, whichever host it comes from."""
    with (data_folder.folder() / "start.lock").open("w") as lock, connection.cursor() as cursor:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if connection.vendor == "postgresql":
            # A migration may take its time, and another host's start waits for it.
            cursor.execute("SET statement_timeout = 0; SET lock_timeout = '300s'")
            cursor.execute("SELECT pg_advisory_lock(%s)", [START_LOCK])
        yield


def _new_password(user: str) -> str:
    """The command that sets one, on the data of this start."""
    given = [name for name in ("KEYPORTAL_DATA", "DATABASE_URL") if os.environ.get(name)]
    # A database URL may hold a password, and this line may end in a log.
    shown = [
        f"{name}={shlex.quote(os.environ[name]) if name == 'KEYPORTAL_DATA' else '...'}"
        for name in given
    ]
    return " ".join([*shown, ".venv/bin/python manage.py changepassword", user])


def _sentence(message: checks.CheckMessage) -> str:
    return f"{message.msg} {message.hint or ''} ({message.id})"


if __name__ == "__main__":
    main()

"""This host: its settings, secrets, files and disk."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.core import checks

from keyportal import data_folder
from keyportal.server.doctor.findings import Finding, ok, problem

MIN_FREE_BYTES = 1024**3


def configuration() -> Iterator[Finding]:
    """The checks that each start makes, except those of stored rows."""
    messages = checks.run_checks(include_deployment_checks=False)
    for message in messages:
        text = " ".join(f"{message.msg} {message.hint or ''} ({message.id})".split())
        yield Finding("configuration", message.level >= checks.WARNING, text)
    if not messages:
        yield ok("configuration", "The settings are valid.")


def secrets() -> Iterator[Finding]:
    """Attack: another user of this host reads them, and forges sessions or reads credentials."""
    name = "secrets"
    for variable, (file_name, _) in data_folder.SECRETS.items():
        file = data_folder.folder() / file_name
        if os.environ.get(variable):
            yield ok(name, f"{variable} is set in the environment.")
        elif file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
            yield problem(name, f"Other users may read {file}. Run `chmod 600 {file}`.")
        else:
            yield ok(name, f"Only its owner may read {file}.")


def static_files() -> Iterator[Finding]:
    manifest = Path(settings.STATIC_ROOT) / "staticfiles.json"
    if manifest.exists():
        yield ok("static files", f"They are in {settings.STATIC_ROOT}.")
    else:
        text = f"{manifest} is missing. A start makes it, or `manage.py collectstatic`."
        yield problem("static files", text)


def disk() -> Iterator[Finding]:
    free = shutil.disk_usage(settings.DATA_DIR).free
    text = f"{free / 1024**3:.1f} GiB are free in {settings.DATA_DIR}."
    if free < MIN_FREE_BYTES:
        yield problem("disk", f"Only {text} Make room, or move the folder with KEYPORTAL_DATA.")
    else:
        yield ok("disk", text)
    folder, needed = tempfile.gettempdir(), settings.BODY_DISK * settings.WEB_CONCURRENCY
    free = shutil.disk_usage(folder).free
    text = f"{free / 1024**3:.1f} GiB are free in {folder}, for large bodies."
    if free < needed:
        advice = "Make room, choose another folder with TMPDIR, or lower KEYPORTAL_BODY_DISK."
        yield problem("disk", f"Only {text} They may take {needed / 1024**3:.1f} GiB. {advice}")
    else:
        yield ok("disk", text)

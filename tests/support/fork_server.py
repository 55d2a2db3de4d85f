"""Runs Python programs in forks of a process that has imported what all of them need, which takes
half a second: `python -m tests.support.fork_server SOCKET`. `tests.support.forked` asks it.

It imports nothing of Keyportal and reads no setting, so each program has its own settings, and its
own checkout. But it has read the bytecode of what the programs import themselves.
"""

import gc
import json
import os
import runpy
import select
import socket
import sys
import tempfile
import traceback
from contextlib import suppress
from importlib import import_module
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import ClassVar

MODULES = """
allauth.account.app_settings allauth.account.checks allauth.account.signals
allauth.core.internal.adapter allauth.core.ratelimit allauth.mfa.app_settings allauth.mfa.checks
allauth.socialaccount.app_settings allauth.socialaccount.checks allauth.socialaccount.internal
allauth.socialaccount.providers.oauth2.utils allauth.socialaccount.signals asyncio
cryptography.fernet cryptography.x509 csp.apps csp.middleware django.contrib.admin.apps
django.contrib.auth.apps django.contrib.auth.hashers django.contrib.auth.password_validation
django.contrib.auth.tokens django.contrib.auth.validators django.contrib.contenttypes.apps
django.contrib.humanize.apps django.contrib.messages.apps django.contrib.messages.middleware
django.contrib.sessions.backends.db django.contrib.sessions.middleware
django.contrib.sites.shortcuts django.contrib.staticfiles.apps django.core.checks
django.core.handlers.asgi django.core.mail.backends.base django.core.management
django.core.serializers.json django.db.backends.postgresql.base django.db.backends.sqlite3.base
django.db.migrations.executor django.db.models django.forms django.http
django.middleware.clickjacking django.middleware.common django.middleware.security
django.template.defaulttags django.urls django.utils.translation.trans_null
django.views.decorators.http django.views.defaults django.views.generic django_htmx.middleware
environ fido2.server gunicorn.app.wsgiapp gunicorn.glogging httptools jwt msgspec psycopg
psycopg_pool python_multipart qrcode requests uvicorn_worker uvloop whitenoise.middleware
"""
# Of these only the code is read: they have modules that need settings, or are of one checkout.
READ = """
allauth.account allauth.core allauth.mfa allauth.socialaccount django.contrib.admin
django.contrib.auth django.contrib.contenttypes keyportal
"""
UNREAD = {"management", "migrations", "providers", "__pycache__"}
MAX_DESCRIPTOR = 1_000


class ReadLoader(SourceFileLoader):
    """It loads what the fork server has read, without a look at the file."""

    codes: ClassVar[dict[str, CodeType | None]] = {}

    def get_code(self, fullname: str) -> CodeType | None:
        return self.codes.get(self.path) or super().get_code(fullname)


def read(folder: Path) -> None:
    """Read a package, which is a quarter of the time of its import."""
    for path in map(str, folder.glob("*.py")):
        ReadLoader.codes[path] = SourceFileLoader(path, path).get_code(path)
    finder = FileFinder(str(folder), (ReadLoader, SOURCE_SUFFIXES))
    sys.path_importer_cache[str(folder)] = finder
    for below in folder.iterdir():
        if below.is_dir() and below.name not in UNREAD:
            read(below)


def main() -> None:
    for module in MODULES.split():
        import_module(module)
    for package in READ.split():
        spec = find_spec(package)
        assert spec
        assert spec.origin
        read(Path(spec.origin).parent)
    gc.collect()
    gc.freeze()
    requests = socket.socket(fileno=int(sys.argv[1]))
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready in select.select([requests.fileno(), *running], [], [])[0]:
            if ready in running:
                _tell_end(*running.pop(ready))
                os.close(ready)
                continue
            request, descriptors, _, _ = socket.recv_fds(requests, 1_000_000, 3)
            if not request:
                return  # The tests have ended.
            pid, client = _start(request, descriptors)
            running[os.pidfd_open(pid)] = pid, client


def _start(request: bytes, descriptors: list[int]) -> tuple[int, socket.socket]:
    """Fork a program. Returns its process id, and the socket on which its end will be told."""
    client = socket.socket(fileno=descriptors[0])
    if (pid := os.fork()) == 0:
        for number, descriptor in enumerate(descriptors[1:], start=1):
            os.dup2(descriptor, number)
        os.closerange(3, MAX_DESCRIPTOR)
        os._exit(_run(**json.loads(request)))
    for descriptor in descriptors[1:]:
        os.close(descriptor)
    client.send(str(pid).encode())
    return pid, client


def _tell_end(pid: int, client: socket.socket) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with client, suppress(ConnectionError):  # The test may have ended before.
        client.send(str(code).encode())


def _run(arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """Do what `python ARGUMENTS` does, and return its exit code."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    tempfile.tempdir = None  # It depends on the environment.
    code: object = 0
    try:
        _run_python(arguments)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        sys.stderr.write(code + "\n")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0


def _run_python(arguments: list[str]) -> None:
    option, *rest = arguments
    sys.argv = rest if option == "-m" else arguments
    if option == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif option == "-c":
        exec(rest[0], {"__name__": "__main__"})
    else:
        runpy.run_path(option, run_name="__main__")


if __name__ == "__main__":
    main()

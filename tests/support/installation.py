"""Installations as operators have them: real processes, each with its own data."""

import fcntl
import http.cookiejar
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support import forked
from tests.support.forked import Forked
from tests.support.server import free_port, wait_until

ROOT = Path(__file__).parent.parent.parent
# What the start does before it becomes gunicorn, in a fork: an eighth of the processor time.
PREPARE = """
import sys
del sys.argv[1]
from keyportal import serve
serve.become_gunicorn = sys.exit
serve.main()
"""
FIRST = r"Sign in at http://127\.0\.0\.1:{port}/ as demo with password (\w{{20}})\n"


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

    def prepare(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Start, up to where it becomes gunicorn."""
        return self.run("-c", PREPARE, *arguments, **environment)

    def execute(self, statement: str) -> list[Any]:
        """Run a statement in the SQLite file while no server runs."""
        with closing(sqlite3.connect(self.data / "keyportal.sqlite3")) as database, database:
            return database.execute(statement).fetchall()

    @contextmanager
    def serving(self, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """The test ends it, to read what it printed; after a failure it is killed."""
        with subprocess.Popen(
            [sys.executable, "-m", "keyportal.serve", *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise

    @contextmanager
    def serving_again(self) -> Iterator[None]:
        """Serve after a first start, in a fork: gunicorn alone."""
        log_file = self.data.parent / "log"
        with log_file.open("wb") as log:
            arguments = ["-m", "gunicorn", "-c", "python:keyportal.server.gunicorn_conf"]
            process = Forked(
                [*arguments, "keyportal.asgi:application"],
                folder=ROOT,
                environment=self.environment,
                out=log,
                err=log,
            )
        try:
            wait_until(lambda: process.poll() is not None or self._answers(), 250)
            assert process.poll() is None, log_file.read_text()
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/accounts/login/"

    def wait_until_it_answers(self, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 250
        while time.monotonic() < deadline and process.poll() is None:
            if self._answers():
                return
            time.sleep(0.05)
        process.kill()
        pytest.fail("\n".join(process.communicate()))

    def _answers(self) -> bool:
        """A response, not only a connection: gunicorn listens before it has a worker."""
        with suppress(OSError), urllib.request.urlopen(self.url) as answer:
            answer.read()
            return True
        return False

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

    def copy(self, data: Path) -> Self:
        """Another installation, with a copy of the data folder."""
        shutil.copytree(self.data, data)
        return type(self)(data)


def first_start(base: Path) -> Installation:
    """An installation that was started with a demo once: migrating takes seconds, so all processes
    of this test run share it. `base` is the folder of pytest."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    place = Installation(base.parent / f"first-start-{run}" / "data")
    place.data.parent.mkdir(exist_ok=True)
    with (place.data.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.data.exists():
            with place.serving("--demo") as process:
                place.wait_until_it_answers(process)
                process.terminate()
                place.printed.write_text(process.communicate(timeout=120)[0])
    return place

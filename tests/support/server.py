"""The product as an operator starts it: a real gunicorn on a free port, on the tests' database."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connection

START_SECONDS = 100
CHAT = "/v1/chat/completions"


class Reply(NamedTuple):
    """An answer, read whole."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The `code` of an error in OpenAI's shape."""
        return str(self.json()["error"]["code"])


class Server:
    """One `python -m keyportal.serve` and the processes it becomes."""

    module = ["keyportal.serve"]
    running: ClassVar["Server | None"] = None
    """The one that tests share, once one of them has asked for it."""

    def __init__(self, folder: Path, *, workers: int = 1, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = folder / f"server-{self.port}.log"
        self._environment = os.environ | {
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "KEYPORTAL_DATA": str(settings.DATA_DIR),
            "DATABASE_URL": database_url(),
            "DJANGO_SETTINGS_MODULE": "keyportal.settings",
            "WEB_CONCURRENCY": str(workers),
            **environment,
        }

    def prepare(self) -> None:
        """What `keyportal.serve` does before it becomes gunicorn."""
        script = (
            "from keyportal import data_folder, serve;"
            "data_folder.prepare(); serve.prepare(demo=False)"
        )
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=settings.BASE_DIR,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def start(self) -> "Server":
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.module],
                cwd=settings.BASE_DIR,
                env=self._environment,
                stdout=log,
                stderr=log,
                # A group of its own: a test may send it what Ctrl-C would.
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise
        return self

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Stop it and return its exit code; killed, with an error, when it takes too long."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def request(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        body: object = None,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> Reply:
        """One request on a connection of its own; a body that is not bytes is sent as JSON."""
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            client.request(method, path, body=body, headers=sent)
            answer = client.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, names, answer.read())
        finally:
            client.close()

    def chat(self, key: str | None, model: str, **more: object) -> Reply:
        """`POST /v1/chat/completions` with one user message."""
        return self.request("POST", CHAT, key=key, body=chat_body(model, **more))

    def manage(self, *arguments: str) -> str:
        """Run `manage.py` on the same data, and return what it prints."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=settings.BASE_DIR,
            env=self._environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def connect(self, timeout: float = 60) -> "Connection":
        return Connection(self.port, timeout)

    def workers(self) -> list[int]:
        """The process ids of gunicorn's workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/v1/models", timeout=2).status in {401, 426}
        except OSError:
            return False


class BareServer(Server):
    """Gunicorn alone, as a process manager starts it: nothing is prepared, nothing is migrated."""

    module = [
        "gunicorn",
        "-c",
        "python:keyportal.server.gunicorn_conf",
        "keyportal.asgi:application",
    ]


class SharedServer(BareServer):
    """The one that all tests share."""

    module = ["gunicorn", "-c", "python:tests.support.quick_flush", "keyportal.asgi:application"]


class Connection:
    """One connection, byte by byte: what a well-behaved client library would not do."""

    def __init__(self, port: int, timeout: float) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def ask(self, line: str, key: str | None = None, body: bytes | None = None, *more: str) -> None:
        """Send one request, whose first line is `line` and HTTP/1.1."""
        self.send(head(line, key, len(body) if body is not None else None, *more), body or b"")

    def chat(self, key: str, model: str, **more: object) -> None:
        """Ask for a chat completion, and read nothing yet."""
        self.ask(f"POST {CHAT}", key, json.dumps(chat_body(model, **more)).encode())

    def start(self) -> Reply:
        """Read status and headers; the body is still to come."""
        line = self._file.readline()
        if not line:
            raise EOFError
        headers = http.client.parse_headers(self._file)
        names = {name.lower(): value for name, value in headers.items()}
        return Reply(int(line.split()[1]), names, b"")

    def reply(self, method: str = "GET") -> Reply:
        """Read one answer, whole; to HEAD, which has no body whatever it says of it, if told so."""
        started = self.start()
        if method == "HEAD" or started.status == 204:
            return started
        if started.headers.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        elif "content-length" in started.headers:
            body = self._file.read(int(started.headers["content-length"]))
        else:
            body = self._file.read()
        return started._replace(body=body)

    def chunk(self) -> bytes:
        """One chunk of a chunked body; nothing at its proper end. EOFError where it is cut."""
        size = self._file.readline()
        if not size.endswith(b"\r\n"):
            raise EOFError
        data = self._file.read(int(size, 16) + 2)
        if not data.endswith(b"\r\n"):
            raise EOFError
        return data[:-2]

    def is_closed(self) -> bool:
        """Whether the server has closed it, or does so within the time-out; reads what is left."""
        try:
            while self._file.read(65_536):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


def head(line: str, key: str | None, length: int | None, *more: str) -> bytes:
    """The head of a request, as bytes."""
    lines = [f"{line} HTTP/1.1", "Host: 127.0.0.1", *more]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if length is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chat_body(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello, model!"}], **more}


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for what happens elsewhere, as long as a loaded machine may need."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def database_url() -> str:
    """The test database, as a `DATABASE_URL` for another process."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()

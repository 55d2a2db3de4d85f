"""The product as an operator starts it: a real gunicorn on a free port, with the test database."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connection

from keyportal.data_folder import BASE_DIR
from tests.support import forked
from tests.support.forked import Forked

START_SECONDS = 250
CHAT = "/v1/chat/completions"


class Reply(NamedTuple):
    """A complete response."""

    status: int
    headers: dict[str, str]
    """The names are in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The `code` of an error in OpenAI's format."""
        return str(self.json()["error"]["code"])


class Server:
    """One `python -m keyportal.serve`: a gunicorn and its workers."""

    module = ["keyportal.serve"]
    code: ClassVar[Path] = BASE_DIR
    """The folder of the version that runs."""
    stop_shared: ClassVar[Callable[[], None] | None] = None
    """Stops the shared server, while it runs."""

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
        """Run the part of `keyportal.serve` that comes before gunicorn."""
        script = (
            "from keyportal import data_folder, serve;"
            "data_folder.prepare(); serve.prepare(demo=False)"
        )
        done = forked.run(["-c", script], environment=self._environment, folder=self.code)
        assert done.returncode == 0, done.stderr

    def start(self) -> "Server":
        with self.log_file.open("ab") as log:
            self.process = Forked(
                ["-m", *self.module],
                folder=self.code,
                environment=self._environment,
                out=log,
                err=log,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def stop(self, signal_number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Stop it and return its exit code. Kills it and raises TimeoutExpired after `seconds`."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
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
    def page_origin(self) -> str:
        """Another origin than `url`, which leads to this server too."""
        return f"http://localhost:{self.port}"

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
        """Send one request on a new connection; a body that is not bytes is sent as JSON."""
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            client.request(method, path, body=body, headers=sent)
            response = client.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, names, response.read())
        finally:
            client.close()

    def chat(self, key: str | None, model: str, **more: object) -> Reply:
        """`POST /v1/chat/completions` with one user message."""
        return self.request("POST", CHAT, key=key, body=chat_body(model, **more))

    def manage(self, *arguments: str) -> str:
        """Run `manage.py` with the same settings, and return its standard output."""
        result = self.run_manage(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def run_manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `manage.py` with the same settings; it may fail."""
        return forked.run(
            ["manage.py", *arguments], environment=self._environment, folder=self.code
        )

    def connect(self, timeout: float = 60) -> "Connection":
        return Connection(self.port, timeout)

    def workers(self) -> list[int]:
        """The process ids of gunicorn's workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def _is_ready(self) -> bool:
        try:
            return self.request("GET", "/v1/models", timeout=2).status in {401, 426}
        except OSError:
            return False


class BareServer(Server):
    """Gunicorn without the preparation of `keyportal.serve`, as a process manager may start it."""

    module = [
        "gunicorn",
        "-c",
        "python:keyportal.server.gunicorn_conf",
        "keyportal.asgi:application",
    ]


class PatientServer(BareServer):
    """Its time limits don't end on a busy machine what should not end."""

    module = [
        "gunicorn",
        "-c",
        "python:tests.support.gunicorn_patient",
        "keyportal.asgi:application",
    ]


class SharedServer(PatientServer):
    """The server that all tests share; it writes usage at short intervals.

    Pages of `page_origin` may call its gateway from a browser. It has metrics, and teams may add
    model servers with public addresses.
    """

    module = [
        "gunicorn",
        "-c",
        "python:tests.support.gunicorn_fast_metering",
        "keyportal.asgi:application",
    ]

    def __init__(self, folder: Path, *, workers: int = 1, **environment: str) -> None:
        super().__init__(folder, workers=workers, **environment)
        self._environment["KEYPORTAL_CORS_ORIGINS"] = self.page_origin
        self._environment["KEYPORTAL_TEAM_SERVERS"] = "public"
        self.metrics_port = free_port()
        self._environment["KEYPORTAL_METRICS_PORT"] = str(self.metrics_port)


class Connection:
    """One connection with full control over the bytes, for what client libraries do not do."""

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

    def send_request(
        self, line: str, key: str | None = None, body: bytes | None = None, *more: str
    ) -> None:
        """Send one request; `line` is its method and path."""
        self.send(head(line, key, len(body) if body is not None else None, *more), body or b"")

    def chat(self, key: str, model: str, **more: object) -> None:
        """Send a chat completion request, and read nothing."""
        self.send_request(f"POST {CHAT}", key, json.dumps(chat_body(model, **more)).encode())

    def read_head(self) -> Reply:
        """Read the status and headers; the body stays unread. EOFError if it is closed."""
        line = self._file.readline()
        if not line:
            raise EOFError
        headers = http.client.parse_headers(self._file)
        names = {name.lower(): value for name, value in headers.items()}
        return Reply(int(line.split()[1]), names, b"")

    def reply(self, method: str = "GET") -> Reply:
        """Read one complete response to a request with this method; HEAD has no body."""
        head = self.read_head()
        if method == "HEAD" or head.status == 204:
            return head
        if head.headers.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        elif "content-length" in head.headers:
            body = self._file.read(int(head.headers["content-length"]))
        else:
            body = self._file.read()
        return head._replace(body=body)

    def chunk(self) -> bytes:
        """One chunk of a chunked body; empty at its end. EOFError if the body breaks off."""
        size = self._file.readline()
        if not size.endswith(b"\r\n"):
            raise EOFError
        data = self._file.read(int(size, 16) + 2)
        if not data.endswith(b"\r\n"):
            raise EOFError
        return data[:-2]

    def is_closed(self) -> bool:
        """Whether the server closes it before the time-out; reads and drops remaining bytes."""
        try:
            while self._file.read(65_536):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


def head(line: str, key: str | None, length: int | None, *more: str) -> bytes:
    """Request line and headers, in bytes."""
    lines = [f"{line} HTTP/1.1", "Host: 127.0.0.1", *more]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if length is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chat_body(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello, model!"}], **more}


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Poll until the condition is true; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true after {seconds} s"
        time.sleep(0.01)


FIRST_PORT, PORTS, PROCESSES = 12_000, 100, 200
"""Below the ports that the system gives to connections and to servers that don't choose one."""
_owner = socket.socket(socket.AF_UNIX)
"""Its name says whose the ports are that this process gives. Open until the process ends."""


def free_port() -> int:
    """A port for a server that is started later."""
    for port in _own_ports():
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


@cache
def _own_ports() -> Iterator[int]:
    """Each process on this machine has ports of its own, or another one could take a port before
    its server is started. Only one socket at a time can have a name."""
    for first in range(FIRST_PORT, FIRST_PORT + PORTS * PROCESSES, PORTS):
        with suppress(OSError):
            _owner.bind(f"\0keyportal-test-ports-{first}")
            return cycle(range(first, first + PORTS))
    raise AssertionError


def database_url() -> str:
    """The test database, as a `DATABASE_URL` for another process."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()

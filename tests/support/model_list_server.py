"""A server that lists models, also wrongly, for discovery. It answers a POST in the same way."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class ModelListServer(ThreadingHTTPServer):
    """Answers every request with `body`, and records it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.status, self.location, self.body = 200, "", b""
        self.reason: str | None = None
        self.pause = 0.0
        self.asked: list[tuple[str, str | None]] = []
        self.posted: list[tuple[str, Any]] = []
        """The path and the JSON body of each POST."""
        self.headers = Message()
        """Of the last request."""
        self.hosts: list[str] = []

        self.reply_to_post: tuple[int, bytes] | None = None
        """Status and body; None: as for a GET."""
        self.pages: dict[str, bytes] = {}
        """The bodies at these paths; all others are 404 if there are any."""

    def lists(self, *ids: object) -> None:
        self.body = json.dumps({"object": "list", "data": [{"id": id_} for id_ in ids]}).encode()


class Handler(BaseHTTPRequestHandler):
    server: ModelListServer

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.posted.append((self.path, json.loads(self.rfile.read(length))))
        if self.server.reply_to_post:
            self.server.status, self.server.body = self.server.reply_to_post
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.server.headers = self.headers
        self.server.hosts.append(self.headers["Host"])
        if self.server.pages:
            self.server.body = self.server.pages.get(self.path, b"")
            self.server.status = 200 if self.server.body else 404
        self.send_response(self.server.status, self.server.reason)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        if self.server.pause:
            with suppress(ConnectionError):
                self._drip()
        else:
            self.wfile.write(self.server.body)

    def _drip(self) -> None:
        for number in self.server.body:
            self.wfile.write(bytes([number]))
            time.sleep(self.server.pause)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base names it so
        """Log nothing."""


@contextmanager
def running() -> Iterator[ModelListServer]:
    """Run the server for the duration of the `with` block."""
    with ModelListServer() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

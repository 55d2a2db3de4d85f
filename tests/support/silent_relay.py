"""A TCP relay to PostgreSQL whose open sessions can go silent, like those a firewall forgets."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class SilentRelay:
    """Listens on loopback. `silence` holds all open sessions; later ones work."""

    def __init__(self, target: Path) -> None:
        """`target` is PostgreSQL's Unix socket."""
        self._target = str(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sessions: list[Session] = []

    def silence(self) -> None:
        for session in self._sessions:
            session.is_silent = True

    @contextmanager
    def running(self) -> Iterator["SilentRelay"]:
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            for session in self._sessions:
                session.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                self._sessions.append(Session(client, server))


class Session:
    """While it is silent it acknowledges what it receives, and drops it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.is_silent = False
        self._sockets = (client, server)
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self.is_silent:
                    target.sendall(data)
        if not self.is_silent:
            self.close()

    def close(self) -> None:
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

"""A TCP relay to PostgreSQL whose open sessions can go silent, like those a firewall forgets.

`python -m tests.support.silent_relay ADDRESS SOCKET` prints its port, and runs until it is killed.
"""

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class SilentRelay:
    """`silence` holds all open sessions; later ones work."""

    def __init__(self, target: Path, address: str = "127.0.0.1") -> None:
        """`target` is PostgreSQL's Unix socket."""
        self._target = str(target)
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        self._sessions: list[Session] = []

    def silence(self) -> None:
        for session in self._sessions:
            session.is_silent = True

    @contextmanager
    def running(self) -> Iterator["SilentRelay"]:
        thread = threading.Thread(target=self._accept)
        thread.start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            thread.join()
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
        ways = ((client, server), (server, client))
        self._threads = [threading.Thread(target=self._copy, args=way) for way in ways]
        for thread in self._threads:
            thread.start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self.is_silent:
                    target.sendall(data)
        if not self.is_silent:
            self._shut_down()

    def _shut_down(self) -> None:
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._shut_down()
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()


if __name__ == "__main__":
    with SilentRelay(Path(sys.argv[2]), sys.argv[1]).running() as relay:
        print(relay.port, flush=True)  # noqa: T201
        signal.pause()

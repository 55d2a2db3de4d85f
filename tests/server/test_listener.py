"""The listening sockets of a process that stops."""

import socket
from typing import Any

import pytest

from keyportal.server.listener import stop_handshakes


class WithoutFilters(socket.socket):
    """On a kernel that lets only root attach a filter."""

    def setsockopt(self, level: int, name: int, value: Any) -> None:  # type: ignore[override]  # one of its three forms
        if (level, name) == (socket.SOL_SOCKET, 26):
            raise PermissionError
        super().setsockopt(level, name, value)


@pytest.mark.parametrize("kind", [socket.socket, WithoutFilters])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_no_connection_begins_and_those_that_were_made_are_served(
    kind: type[socket.socket], address: str
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with kind(family) as listening, socket.socket(family) as early, socket.socket(family) as late:
        listening.bind((address, 0))
        listening.listen()
        early.connect(listening.getsockname())
        stop_handshakes([listening])
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.connect(listening.getsockname())
        accepted, _ = listening.accept()
        with accepted:
            early.sendall(b"request")
            assert accepted.recv(7) == b"request"
            accepted.sendall(b"response")
        assert early.recv(8) == b"response"

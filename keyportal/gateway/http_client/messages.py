"""What the HTTP client sends and raises: request bodies, origins, failures."""

from collections.abc import AsyncIterable
from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]


class Streamed(NamedTuple):
    """A body that is sent piece by piece."""

    chunks: AsyncIterable[bytes]
    length: int
    """Bytes."""


Body = bytes | Streamed


class Failure(Exception):
    """No answer, or no whole one. The text may hold the server's address: it is for the log."""


class Refused(Failure):
    """No connection came about, so the server has not seen the request."""


class Unreached(Failure):
    """No connection in time."""


class Closed(Failure):
    """The server closed before a byte of an answer had come."""


class Broken(Failure):
    """The answer broke off, or is no HTTP."""


class Silent(Failure):
    """Nothing came for too long."""


class Origin(NamedTuple):
    """Scheme, host and port: requests to the same origin share connections."""

    is_tls: bool
    host: str
    port: int

    @property
    def authority(self) -> str:
        """As a Host header names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

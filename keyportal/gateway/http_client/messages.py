"""What the HTTP client sends and raises: request bodies, origins and errors."""

from collections.abc import AsyncIterable
from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]


class StreamedBody(NamedTuple):
    """A request body that is sent chunk by chunk."""

    chunks: AsyncIterable[bytes]
    length: int
    """Bytes."""
    is_repeatable: bool = False
    """Whether `chunks` can be iterated more than once, each time from the beginning."""


Body = bytes | StreamedBody


class TransportError(Exception):
    """No response, or an incomplete one. The text may contain the server's address: only log it."""


class ConnectFailed(TransportError):
    """No connection could be opened, so the server has not seen the request."""


class ConnectTimeout(TransportError):
    """No connection was open within `connect_timeout`."""


class ServerDisconnected(TransportError):
    """The server closed the connection before it sent any byte of a response."""


class ProtocolError(TransportError):
    """The response is incomplete or is not valid HTTP."""


class ReadTimeout(TransportError):
    """No response for `first_byte_timeout`, or nothing more of it for `read_timeout`."""


class Origin(NamedTuple):
    """Scheme, host and port, the certificate files that TLS uses, and the owner.

    Requests to the same origin share connections. Attack: of two model servers on one host, the
    one without a client certificate would be called on a connection that was opened with one.
    """

    is_tls: bool
    host: str
    port: int
    ca_file: str = ""
    client_certificate_file: str = ""
    owner: int = 0
    """For whom it is called; `check_address` may allow other addresses to each. 0: whoever runs
    this process."""

    @property
    def authority(self) -> str:
        """The value of a Host header: without the port where it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

"""An HTTP/1.1 client with only what the relay needs.

A general HTTP client costs more than all the rest of a call. This one sends requests, returns each
response chunk by chunk, stops reading while its caller is slow, and keeps connections open.
See docs/development/http-client.md.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from keyportal.gateway.http_client.connection import Connection
from keyportal.gateway.http_client.messages import (
    Body,
    ConnectFailed,
    ConnectTimeout,
    Headers,
    Origin,
    ProtocolError,
    ServerDisconnected,
)

# vLLM closes idle connections after 5 seconds. The side that closes first never sends a request on
# a connection that the other side has closed.
IDLE_SECONDS = 4.0
SWEEP_SECONDS = 1.0


class Address(NamedTuple):
    """A parsed base URL."""

    origin: Origin
    path: str
    """Without a trailing slash."""
    query: str = ""
    """With its question mark, if there is a query. It follows the endpoint's path."""


@lru_cache(1024)
def parse_base_url(base_url: str) -> Address:
    parts = urlsplit(base_url)
    is_tls = parts.scheme == "https"
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    origin = Origin(is_tls, host, parts.port or (443 if is_tls else 80))
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    query = quote(f"?{parts.query}" if parts.query else "", safe="/%:@!$&'()*+,;=~?")
    return Address(origin, path, query)


class Response:
    """A response whose head has arrived. Read it to its end, or close it."""

    __slots__ = ("_connection", "_is_over", "_release", "headers", "length", "status")

    def __init__(self, connection: "Connection", release: Callable[["Connection"], None]) -> None:
        self._connection = connection
        self._release = release
        self._is_over = False
        self.status = connection.status
        self.headers = connection.headers
        """Names in lower case, values unchanged."""
        self.length = connection.length
        """Bytes of the body; None if the response has no Content-Length."""

    async def next_chunk(self) -> bytes:
        """The bytes of the body that arrived since the last chunk; empty at the end of the body.

        Raises `TransportError`.
        """
        if self._is_over:
            return b""
        chunk = await self._connection.next_chunk()
        if not chunk:
            # From here on another response may use the connection.
            self._is_over = True
            self._release(self._connection)
        return chunk

    async def read(self) -> bytes:
        """The whole body."""
        chunks = []
        while chunk := await self.next_chunk():
            chunks.append(chunk)
        return b"".join(chunks) if len(chunks) != 1 else chunks[0]

    def close(self) -> None:
        """Stop reading, so that the server stops too. Does nothing after the end of the body."""
        if not self._is_over:
            self._is_over = True
            self._connection.abort()


class Client:
    """All connections of one process. Use it in one event loop.

    `check_address` is called with each IP address before a connection to it is opened. It raises
    `OSError` to forbid the address.
    """

    def __init__(self, check_address: Callable[[str], None] = lambda _: None) -> None:
        self._loop = asyncio.get_running_loop()
        self._check_address = check_address
        self._idle: dict[Origin, list[Connection]] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def close(self) -> None:
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()

    async def send(
        self,
        address: Address,
        endpoint: str,
        headers: Headers,
        body: Body,
        *,
        method: str = "POST",
        connect_timeout: float,
        read_timeout: float,
    ) -> Response:
        """Send a request and return the response once its head has arrived.

        `method` is one whose responses have a body, so not HEAD.

        If an idle connection turns out to be closed before any byte of the response, the request is
        sent once more on a new connection: the server closed it between two requests, so it has not
        seen this one. On a new connection it may have seen it, so the request is not repeated. Nor
        is a streamed body, which can't be sent twice.
        """
        head = _request_head(method, address, endpoint, headers, body)
        if isinstance(body, bytes) and (idle := self._acquire(address.origin)):
            with contextlib.suppress(ServerDisconnected):
                return await self._request(idle, head, body, read_timeout)
        connection = await self._connect(address.origin, connect_timeout)
        return await self._request(connection, head, body, read_timeout)

    async def _request(
        self, connection: Connection, head: bytes, body: Body, read_timeout: float
    ) -> Response:
        try:
            await connection.request(head, body, read_timeout)
        except BaseException:
            connection.abort()
            raise
        return Response(connection, self._release)

    def _acquire(self, origin: Origin) -> Connection | None:
        """An open idle connection to `origin`, if there is one."""
        connections = self._idle.get(origin)
        while connections:
            connection = connections.pop()
            if connection.is_open and connection.idle_since > self._loop.time() - IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    def _release(self, connection: Connection) -> None:
        """Keep the connection for the next request if it can be used again, else close it."""
        connection.release()
        if not connection.is_reusable:
            connection.abort()
            return
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._sweep_timer is None:
            self._sweep_timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Close connections that have been idle for too long, before their servers do."""
        self._sweep_timer = None
        before = self._loop.time() - IDLE_SECONDS
        for origin, connections in tuple(self._idle.items()):
            for connection in connections:
                if connection.idle_since <= before:
                    connection.abort()
            # In place, because `_acquire` may have a reference to the same list.
            connections[:] = [connection for connection in connections if connection.is_open]
            if not connections:
                del self._idle[origin]
        if self._idle:
            self._sweep_timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    async def _connect(self, origin: Origin, seconds: float) -> Connection:
        try:
            async with asyncio.timeout(seconds):
                addresses = await self._resolve(origin)
                return await self._try_each(origin, addresses, seconds / max(len(addresses), 1))
        except TimeoutError:
            raise ConnectTimeout(f"No connection to {origin.authority} in {seconds:g} s.") from None
        except (OSError, UnicodeError) as error:
            name = type(error).__name__
            raise ConnectFailed(f"No connection to {origin.authority}: {name}: {error}") from None

    async def _resolve(self, origin: Origin) -> list[str]:
        """The IP addresses of `origin`. Raises `OSError` if `check_address` forbids any of them.

        Connections are opened to these addresses. Attack: a name that resolves to an allowed
        address when it is checked, and to another one when it is resolved again.
        """
        rows = await self._loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(row[4][0]) for row in rows))
        for address in addresses:
            self._check_address(address)
        return addresses

    async def _try_each(self, origin: Origin, addresses: list[str], seconds: float) -> Connection:
        """Try the addresses in order, each for `seconds`, so that a dead one doesn't use up the
        time of the others.
        """
        last_error = OSError(None, "The name has no address.")
        for address in addresses:
            try:
                async with asyncio.timeout(seconds):
                    return await self._open(origin, address)
            except OSError as error:  # TimeoutError is an OSError too.
                last_error = error
        raise last_error

    async def _open(self, origin: Origin, address: str) -> Connection:
        _, connection = await self._loop.create_connection(
            lambda: Connection(self._loop, origin),
            address,
            origin.port,
            ssl=self._tls if origin.is_tls else None,
            server_hostname=origin.host if origin.is_tls else None,
        )
        return connection


def _request_head(
    method: str, address: Address, endpoint: str, headers: Headers, body: Body
) -> bytes:
    lines = [_first_lines(method, address, endpoint), *map(b": ".join, headers)]
    if body or method == "POST":
        length = len(body) if isinstance(body, bytes) else body.length
        lines.append(b"Content-Length: %d" % length)
    head = b"\r\n".join(lines)
    # Attack: a line break in a header's value adds another header.
    line_breaks = len(lines)  # One is in the first lines.
    if head.count(b"\n") != line_breaks or head.count(b"\r") != line_breaks:
        raise ProtocolError("A header contains a line break.")
    return head + b"\r\n\r\n"


@lru_cache(1024)
def _first_lines(method: str, address: Address, endpoint: str) -> bytes:
    """The request line and the Host header, with one line break between them."""
    target = f"{address.path}{endpoint}{address.query}"
    return f"{method} {target} HTTP/1.1\r\nHost: {address.origin.authority}".encode()

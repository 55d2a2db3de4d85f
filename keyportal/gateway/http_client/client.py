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
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from keyportal.gateway.http_client import happy_eyeballs
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
# Attack: a name with thousands of addresses takes time to check, and more to try.
MAX_ADDRESSES = 20
# Attack: a name whose own name server is slow keeps a thread for up to a minute. Names of others
# than whoever runs this process get threads of their own, so that they never keep all.
RESOLVING_THREADS = 4
# Attack: an admin of a team gives the team's own server one name after the other.
MAX_WORKING = 1024


class Address(NamedTuple):
    """A parsed base URL."""

    origin: Origin
    path: str
    """Without a trailing slash."""
    query: str = ""
    """With its question mark, if there is a query. It follows the endpoint's path."""

    def with_query(self, query: str) -> "Address":
        """The same address with further parameters."""
        return self._replace(query=f"{self.query}&{query}" if self.query else f"?{query}")


@lru_cache(1024)
def parse_base_url(
    base_url: str, ca_file: str = "", client_certificate_file: str = "", owner: int = 0
) -> Address:
    parts = urlsplit(base_url)
    is_tls = parts.scheme == "https"
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    port = parts.port or (443 if is_tls else 80)
    origin = Origin(is_tls, host, port, ca_file, client_certificate_file, owner)
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
        if self._connection.is_read:
            # From here on another response may use the connection.
            self._is_over = True
            self._release(self._connection)
        return chunk

    async def read(self) -> bytes:
        """The whole body."""
        chunks = []
        while not self._is_over:
            chunks.append(await self.next_chunk())
        return b"".join(chunks) if len(chunks) != 1 else chunks[0]

    def close(self) -> None:
        """Stop reading, so that the server stops too. Does nothing after the end of the body."""
        if not self._is_over:
            self._is_over = True
            self._connection.abort()


def _default_tls_context(_ca_file: str, _client_certificate_file: str) -> ssl.SSLContext:
    return ssl.create_default_context()


class Client:
    """All connections of one process. Use it in one event loop.

    `check_address` is called with the origin and each of its IP addresses before a connection is
    opened. It raises `OSError` to forbid the address. `tls_context` makes the context of a
    connection from the origin's CA file and client certificate file. It is called for each
    connection, so it should cache. It raises `OSError` if a file can't be used.
    """

    def __init__(
        self,
        check_address: Callable[[Origin, str], None] = lambda *_: None,
        tls_context: Callable[[str, str], ssl.SSLContext] = _default_tls_context,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._check_address = check_address
        self._tls_context = tls_context
        self._idle: dict[Origin, list[Connection]] = {}
        self._working: dict[Origin, str] = {}
        """The address to which the last connection was opened, of each of the last origins."""
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._resolver = ThreadPoolExecutor(RESOLVING_THREADS, thread_name_prefix="resolver")

    def close(self) -> None:
        self._resolver.shutdown(wait=False, cancel_futures=True)
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
        first_byte_timeout: float,
        read_timeout: float,
        on_sent: Callable[[], None] = lambda: None,
    ) -> Response:
        """Send a request and return the response once its head has arrived.

        `method` is one whose responses have a body, so not HEAD.

        `on_sent` is called when there is a connection, before the request is sent.

        If an idle connection turns out to be closed before any byte of the response, the request is
        sent once more on a new connection: the server closed it between two requests, so it has not
        seen this one. On a new connection it may have seen it, so the request is not repeated. Nor
        is a streamed body that can't be sent twice.
        """
        head = _request_head(method, address, endpoint, headers, body)
        is_repeatable = isinstance(body, bytes) or body.is_repeatable
        if is_repeatable and (idle := self._acquire(address.origin)):
            on_sent()
            with contextlib.suppress(ServerDisconnected):
                return await self._request(idle, head, body, first_byte_timeout, read_timeout)
        connection = await self._connect(address.origin, connect_timeout)
        on_sent()
        return await self._request(connection, head, body, first_byte_timeout, read_timeout)

    async def _request(
        self,
        connection: Connection,
        head: bytes,
        body: Body,
        first_byte_timeout: float,
        read_timeout: float,
    ) -> Response:
        try:
            await connection.request(head, body, first_byte_timeout, read_timeout)
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
                addresses = self._in_order(origin, await self._resolve(origin))
                return await self._open_any(origin, addresses, seconds)
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
        if origin.owner:
            resolve = partial(socket.getaddrinfo, type=socket.SOCK_STREAM)
            rows = await self._loop.run_in_executor(
                self._resolver, resolve, origin.host, origin.port
            )
        else:
            rows = await self._loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(row[4][0]) for row in rows))[:MAX_ADDRESSES]
        for address in addresses:
            self._check_address(origin, address)
        return addresses

    def _in_order(self, origin: Origin, addresses: list[str]) -> list[str]:
        """The addresses in the order in which to try them: first the one that worked before."""
        if len(addresses) < 2:
            return addresses
        ordered = happy_eyeballs.by_turns(addresses)
        working = self._working.get(origin)
        return sorted(ordered, key=lambda address: address != working)

    async def _open_any(self, origin: Origin, addresses: list[str], seconds: float) -> Connection:
        """Connect to one of the addresses.

        One that accepts the connection, but then fails in TLS, is left out, and the others are
        tried; it gets half of the time.
        """
        while True:
            address, opened = await happy_eyeballs.connect(addresses, origin.port)
            is_last = len(addresses) == 1
            try:
                async with asyncio.timeout(seconds if is_last else seconds / 2):
                    connection = await self._open(origin, opened)
            except OSError:  # TimeoutError is an OSError too.
                if is_last:
                    raise
                addresses = [other for other in addresses if other != address]
                continue
            self._working.pop(origin, None)
            self._working[origin] = address
            if len(self._working) > MAX_WORKING:
                del self._working[next(iter(self._working))]
            return connection

    async def _open(self, origin: Origin, opened: socket.socket) -> Connection:
        """The connection over an open socket, which is closed if that fails."""
        try:
            context = self._context(origin)
        except BaseException:
            opened.close()
            raise
        _, connection = await self._loop.create_connection(
            lambda: Connection(self._loop, origin),
            sock=opened,
            ssl=context,
            server_hostname=origin.host if context else None,
        )
        return connection

    def _context(self, origin: Origin) -> ssl.SSLContext | None:
        if not origin.is_tls:
            return None
        return self._tls_context(origin.ca_file, origin.client_certificate_file)


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

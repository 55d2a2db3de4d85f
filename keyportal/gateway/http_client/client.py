"""An HTTP/1.1 client with only what a relay needs, in few steps.

A general client costs more than all the rest of a call. This one sends POST requests, hands the
answer on part by part, stops reading while its caller is slow, and keeps connections open. See
docs/development/http-client.md.
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
    Broken,
    Closed,
    Headers,
    Origin,
    Refused,
    Unreached,
)

IDLE_SECONDS = 4.0  # vLLM closes after 5; who closes first never meets a stale connection.
SWEEP_SECONDS = 1.0


class Address(NamedTuple):
    """A base URL, taken apart."""

    origin: Origin
    path: str
    """Without a slash at its end."""


@lru_cache(1024)
def parse_base_url(base_url: str) -> Address:
    parts = urlsplit(base_url)
    is_tls = parts.scheme == "https"
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    origin = Origin(is_tls, host, parts.port or (443 if is_tls else 80))
    return Address(origin, quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~"))


class Response:
    """An answer whose head is here. Read it to its end, or close it."""

    __slots__ = ("_connection", "_give_back", "_is_over", "headers", "length", "status")

    def __init__(self, connection: "Connection", give_back: Callable[["Connection"], None]) -> None:
        self._connection = connection
        self._give_back = give_back
        self._is_over = False
        self.status = connection.status
        self.headers = connection.headers
        """Names in lower case, values as they came."""
        self.length = connection.length
        """Bytes of the body; None where nobody said."""

    async def next(self) -> bytes:
        """What has come of the body since; empty at its end. Raises `Failure`."""
        if self._is_over:
            return b""
        part = await self._connection.next()
        if not part:
            # From here on the connection may be somebody else's.
            self._is_over = True
            self._give_back(self._connection)
        return part

    async def read(self) -> bytes:
        """The whole body."""
        parts = []
        while part := await self.next():
            parts.append(part)
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def close(self) -> None:
        """Stop reading, so that the server stops too. After the end there is nothing to stop."""
        if not self._is_over:
            self._is_over = True
            self._connection.abort()


class Client:
    """All connections of one process; use it in one event loop.

    `check_address` is called with each IP address before a connection to it is opened, and raises
    `OSError` where none may be.
    """

    def __init__(self, check_address: Callable[[str], None] = lambda _: None) -> None:
        self._loop = asyncio.get_running_loop()
        self._check_address = check_address
        self._idle: dict[Origin, list[Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for kept in self._idle.values():
            for connection in kept:
                connection.abort()
        self._idle.clear()

    async def post(
        self,
        address: Address,
        endpoint: str,
        headers: Headers,
        body: Body,
        *,
        connect_timeout: float,
        read_timeout: float,
    ) -> Response:
        """POST, and return the answer once its head is here.

        Once more, on a new connection, where a kept one was closed before any byte of an answer:
        between our last use of it and this one the server may have closed it, and then it has
        not seen the request. On a new one it may have, so that is not repeated; nor is a body
        that comes in parts, which can't be sent twice.
        """
        head = _head(address, endpoint, headers, body)
        if isinstance(body, bytes) and (kept := self._take(address.origin)):
            with contextlib.suppress(Closed):
                return await self._ask(kept, head, body, read_timeout)
        fresh = await self._connect(address.origin, connect_timeout)
        return await self._ask(fresh, head, body, read_timeout)

    async def _ask(
        self, connection: Connection, head: bytes, body: Body, read_timeout: float
    ) -> Response:
        try:
            await connection.ask(head, body, read_timeout)
        except BaseException:
            connection.abort()
            raise
        return Response(connection, self._give_back)

    def _take(self, origin: Origin) -> Connection | None:
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if connection.is_open and connection.idle_since > self._loop.time() - IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    def _give_back(self, connection: Connection) -> None:
        connection.rest()
        if not connection.is_reusable:
            connection.abort()
            return
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long, before its server does."""
        self._sweeper = None
        before = self._loop.time() - IDLE_SECONDS
        for origin, kept in tuple(self._idle.items()):
            for connection in kept:
                if connection.idle_since <= before:
                    connection.abort()
            # In place: nobody else may be left holding a list that is no longer the one.
            kept[:] = [connection for connection in kept if connection.is_open]
            if not kept:
                del self._idle[origin]
        if self._idle:
            self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    async def _connect(self, origin: Origin, seconds: float) -> Connection:
        try:
            async with asyncio.timeout(seconds):
                addresses = await self._resolve(origin)
                return await self._try_each(origin, addresses, seconds / max(len(addresses), 1))
        except TimeoutError:
            raise Unreached(f"No connection to {origin.authority} in {seconds:g} s.") from None
        except (OSError, UnicodeError) as error:
            name = type(error).__name__
            raise Refused(f"No connection to {origin.authority}: {name}: {error}") from None

    async def _resolve(self, origin: Origin) -> list[str]:
        """Its addresses. Raises what `check_address` raises, if for one of them only.

        Connections are then opened to these addresses: looked up once more, the name could lead
        elsewhere.
        """
        found = await self._loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        for address in addresses:
            self._check_address(address)
        return addresses

    async def _try_each(self, origin: Origin, addresses: list[str], seconds: float) -> Connection:
        """One after the other, for so long each: one that is dead must not hide one that lives."""
        failure = OSError(None, "The name has no address.")
        for address in addresses:
            try:
                async with asyncio.timeout(seconds):
                    return await self._open(origin, address)
            except OSError as error:  # A time-out is one, too.
                failure = error
        raise failure

    async def _open(self, origin: Origin, address: str) -> Connection:
        _, connection = await self._loop.create_connection(
            lambda: Connection(self._loop, origin),
            address,
            origin.port,
            ssl=self._tls if origin.is_tls else None,
            server_hostname=origin.host if origin.is_tls else None,
        )
        return connection


def _head(address: Address, endpoint: str, headers: Headers, body: Body) -> bytes:
    length = len(body) if isinstance(body, bytes) else body.length
    lines = [_opening(address, endpoint), *[name + b": " + value for name, value in headers]]
    head = b"\r\n".join([*lines, b"Content-Length: %d" % length])
    # A line break in a value would be the end of its header, and the beginning of another.
    breaks = len(lines) + 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks:
        raise Broken("A header holds a line break.")
    return head + b"\r\n\r\n"


@lru_cache(1024)
def _opening(address: Address, endpoint: str) -> bytes:
    """What all requests to one endpoint begin with; it holds one line break."""
    return f"POST {address.path}{endpoint} HTTP/1.1\r\nHost: {address.origin.authority}".encode()

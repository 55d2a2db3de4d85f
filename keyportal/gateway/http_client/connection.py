"""One connection to a server, and the one answer at a time that comes on it.

The bytes are parsed by llhttp, Node's parser, through httptools.
"""

import asyncio
from typing import cast

import httptools

from keyportal.gateway.http_client.messages import (
    Body,
    Broken,
    Closed,
    Failure,
    Headers,
    Origin,
    Silent,
    Streamed,
)

MAX_HEAD = 64 * 1024  # Bytes of status line and headers.
HIGH_WATER = 256 * 1024  # Bytes of an answer that wait here before its server is held back.
NO_BODY = frozenset({204, 304})


class Connection(asyncio.Protocol):
    """One connection, and the one answer at a time that comes on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: Origin) -> None:
        self.origin = origin
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._is_lost = False
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._read_timeout = 0.0
        self.is_idle = True
        self.idle_since = 0.0
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.length: int | None = None
        self.has_heard = False
        self._head_bytes = self._header_bytes = 0
        self._is_head_whole = False
        self._is_whole = False
        self._ends_with_connection = False
        self._is_last = False
        self._failure: Failure | None = None
        self._parts: list[bytes] = []
        self._waiting_bytes = 0
        self._is_paused = False

    @property
    def is_open(self) -> bool:
        return not self._is_lost and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        return self.is_open and self._is_whole and not self._is_last

    async def ask(self, head: bytes, body: Body, read_timeout: float) -> None:
        """Send a request; return when the head of its answer is here. Raises `Failure`."""
        self._begin()
        self.is_idle = False
        self._read_timeout = read_timeout
        self._heard_at = self._loop.time()
        if self._silence is None or self._silence.when() > self._heard_at + read_timeout:
            self._stop_minding()
            self._silence = self._loop.call_later(read_timeout, self._mind_silence)
        if isinstance(body, bytes):
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._sender = self._loop.create_task(self._send(body))
            self._sender.add_done_callback(self._sent)
        while not self._is_head_whole:
            await self._wait()

    async def _send(self, body: Streamed) -> None:
        """No faster than it is taken. The answer may begin, and end, before it is all sent."""
        left = body.length
        async for part in body.chunks:
            left -= len(part)
            self._transport.write(part)
            if self._drained is not None:
                await self._drained
        if left:
            raise Broken("The body was not as long as was said.")

    def _sent(self, sender: "asyncio.Task[None]") -> None:
        self._sender = None
        if not sender.cancelled() and (error := sender.exception()):
            self._fail(error if isinstance(error, Failure) else Broken(f"Not sent: {error!r}"))

    async def next(self) -> bytes:
        while not self._parts and not self._is_whole:
            await self._wait()
        parts, self._parts, self._waiting_bytes = self._parts, [], 0
        if self._is_paused and self.is_open:
            self._is_paused = False
            self._heard_at = self._loop.time()
            self._transport.resume_reading()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _wait(self) -> None:
        if self._failure:
            raise self._failure
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None
        if self._failure and not self._parts:
            raise self._failure

    def rest(self) -> None:
        """The answer is over, and another request may come, if this one is."""
        if self._sender is not None:
            self._is_last = True
            self._sender.cancel()
        self.is_idle = True
        self.idle_since = self._loop.time()

    def abort(self) -> None:
        self._stop_minding()
        if self._sender is not None:
            self._sender.cancel()
        self._transport.abort()

    def _mind_silence(self) -> None:
        """One timer a connection, which looks how long it has been silent when it goes off."""
        if self.is_idle:
            self._silence = None
            return
        now = self._loop.time()
        is_sending = self._sender is not None and self._drained is None
        if self._is_paused or is_sending:
            self._heard_at = now  # It would speak, but we don't listen, or have not asked yet.
        left = self._heard_at + self._read_timeout - now
        if left > 0:
            self._silence = self._loop.call_later(left, self._mind_silence)
        else:
            self._fail(Silent(f"Silent for {self._read_timeout:g} s."))

    def _stop_minding(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _fail(self, failure: Failure) -> None:
        if not self._is_whole and self._failure is None:
            self._failure = failure
        self.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._ends_with_connection and exc is None and self._failure is None:
            self._is_whole = True
        elif not self._is_whole:
            text = f"{type(exc).__name__}: {exc}" if exc else "The server closed."
            self._fail(Broken(text) if self.has_heard else Closed(text))
        self.resume_writing()
        self._stop_minding()
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self.is_idle:
            self.abort()  # Nobody asked: whatever this is, it answers nothing.
            return
        self.has_heard = True
        self._heard_at = self._loop.time()
        if not self._is_head_whole:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Broken(f"{type(error).__name__}: {error}"))
            return
        if not self._is_head_whole and self._head_bytes > MAX_HEAD:
            self._fail(Broken("The head of the answer is too large."))
            return
        if self._waiting_bytes > HIGH_WATER and not self._is_paused and self.is_open:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        self._heard_at = self._loop.time()
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._is_whole:
            raise Broken("There is a second answer to one request.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_head_whole:
            return  # A trailer, which comes too late to be a header.
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEAD:
            raise Broken("The head of the answer is too large.")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:
            return  # An interim answer, such as 100 or 103: the real one follows.
        framing = {name: value for name, value in self.headers if name in _FRAMING}
        length = framing.get(b"content-length", b"")
        if b"transfer-encoding" not in framing and self.status not in NO_BODY:
            self.length = int(length) if length.isdigit() else None
            self._ends_with_connection = self.length is None
        self._is_head_whole = True
        self._is_last = self._is_last or not self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        if self.status < 200:
            self.headers = []
        else:
            self._is_whole = True
            self._ends_with_connection = False


_FRAMING = frozenset({b"content-length", b"transfer-encoding"})

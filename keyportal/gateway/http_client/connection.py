"""One connection to a server. It carries one request and response at a time.

The bytes are parsed by llhttp, Node's parser, through httptools.
"""

import asyncio
from typing import cast

import httptools

from keyportal.gateway.http_client.messages import (
    Body,
    Headers,
    Origin,
    ProtocolError,
    ReadTimeout,
    ServerDisconnected,
    StreamedBody,
    TransportError,
)

MAX_HEAD_BYTES = 64 * 1024  # Status line and headers.
HEAD_TOO_LARGE = "The head of the response is too large."
HIGH_WATER = 256 * 1024  # Bytes of a response buffered here before reading from the server pauses.
# Bytes that frame the body: chunk sizes and extensions, and trailers. A chunk of one byte has five.
MAX_FRAMING_BYTES = 64 * 1024
FRAMING_PER_BODY_BYTE = 16
BODILESS_STATUSES = frozenset({204, 304})
MAX_LENGTH_DIGITS = 18


class Connection(asyncio.Protocol):
    """One connection. It carries one request and response at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: Origin) -> None:
        self.origin = origin
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._is_lost = False
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._send_task: asyncio.Task[None] | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._active_at = 0.0
        self._read_timeout = 0.0
        self._timeout = 0.0
        """First that to the first byte, then `_read_timeout`."""
        self.is_idle = True
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.length: int | None = None
        self.has_received = False
        self._head_bytes = self._framing_bytes = 0
        self._unsent_bytes = 0
        self._is_head_complete = False
        self._is_complete = False
        self._ends_at_close = False
        self._must_close = False
        self._error: TransportError | None = None
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._is_paused = False

    @property
    def is_open(self) -> bool:
        return not self._is_lost and not self._transport.is_closing()

    @property
    def is_read(self) -> bool:
        """Whether the response has ended, and `next_chunk` has returned all of it."""
        return self._is_complete and not self._chunks

    @property
    def is_reusable(self) -> bool:
        return self.is_open and self._is_complete and not self._must_close

    async def request(
        self, head: bytes, body: Body, first_byte_timeout: float, read_timeout: float
    ) -> None:
        """Send a request and return when the head of its response has arrived.

        Raises `TransportError`.
        """
        self._reset()
        self.is_idle = False
        self._timeout, self._read_timeout = first_byte_timeout, read_timeout
        self._active_at = self._loop.time()
        self._start_read_timer()
        if isinstance(body, bytes):
            self._transport.write(head + body)
        else:
            self._unsent_bytes = body.length
            self._transport.write(head)
            self._send_task = self._loop.create_task(self._send(body))
            self._send_task.add_done_callback(self._on_sent)
        while not self._is_head_complete:
            await self._wait()

    async def _send(self, body: StreamedBody) -> None:
        """Send the body as fast as the server reads it.

        The response may begin, and end, before the whole body is sent.
        """
        async for chunk in body.chunks:
            self._unsent_bytes -= len(chunk)
            self._transport.write(chunk)
            if self._drained is not None:
                await self._drained
        if self._unsent_bytes:
            raise ProtocolError("The body's length differs from its Content-Length.")

    def _on_sent(self, task: "asyncio.Task[None]") -> None:
        self._send_task = None
        if not task.cancelled() and (error := task.exception()):
            self._fail(
                error
                if isinstance(error, TransportError)
                else ProtocolError(f"The body could not be sent: {error!r}")
            )

    async def next_chunk(self) -> bytes:
        while not self._chunks and not self._is_complete:
            await self._wait()
        chunks, self._chunks, self._buffered_bytes = self._chunks, [], 0
        if self._is_paused and self.is_open:
            self._is_paused = False
            self._active_at = self._loop.time()
            self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _wait(self) -> None:
        if self._error:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None
        if self._error and not self._chunks:
            raise self._error

    def release(self) -> None:
        """Mark the connection as idle: its response has been read to the end."""
        if self._send_task is not None:
            self._must_close = True
            self._send_task.cancel()
        self.is_idle = True
        self.idle_since = self._loop.time()

    def abort(self) -> None:
        self._cancel_read_timer()
        if self._send_task is not None:
            self._send_task.cancel()
        self._transport.abort()

    def _check_read_timeout(self) -> None:
        """The one timer of a connection: when it fires, it computes how long nothing has come."""
        if self.is_idle:
            self._read_timer = None
            return
        now = self._loop.time()
        is_sending = self._send_task is not None and self._drained is None
        if self._is_paused or is_sending:
            # The server is not to blame: we don't read, or have not sent the whole request yet.
            self._active_at = now
        left = self._active_at + self._timeout - now
        if left > 0:
            self._read_timer = self._loop.call_later(left, self._check_read_timeout)
        elif self._is_head_complete:
            self._fail(ReadTimeout(f"The server sent nothing for {self._timeout:g} s."))
        else:
            self._fail(ReadTimeout(f"The response did not begin in {self._timeout:g} s."))

    def _start_read_timer(self) -> None:
        """Start the timer, unless it runs and fires early enough to start itself again."""
        fires_at = self._active_at + self._timeout
        if self._read_timer is None or self._read_timer.when() > fires_at:
            self._cancel_read_timer()
            self._read_timer = self._loop.call_at(fires_at, self._check_read_timeout)

    def _cancel_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _fail(self, error: TransportError) -> None:
        if not self._is_complete and self._error is None:
            self._error = error
        self.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._ends_at_close and exc is None and self._error is None:
            self._is_complete = True
        elif not self._is_complete:
            text = f"{type(exc).__name__}: {exc}" if exc else "The server closed the connection."
            self._fail(ProtocolError(text) if self.has_received else ServerDisconnected(text))
        self.resume_writing()
        self._cancel_read_timer()
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self.is_idle:
            # Attack: bytes sent without a request would be taken for the next response.
            self.abort()
            return
        self.has_received = True
        was_head_complete = self._is_head_complete
        if not was_head_complete:
            self._head_bytes += len(data)
        body_bytes = self._buffered_bytes
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # What one of our own methods below has raised is the context.
            reason = error.__context__ or error
            self._fail(ProtocolError(f"{type(reason).__name__}: {reason}"))
            return
        if not was_head_complete:
            if not self._is_head_complete:
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._fail(ProtocolError(HEAD_TOO_LARGE))
                return
        else:
            self._active_at = self._loop.time()
            surplus = len(data) - FRAMING_PER_BODY_BYTE * (self._buffered_bytes - body_bytes)
            if (surplus > 0 or self._framing_bytes) and not self._may_add_framing(surplus):
                return
        if self._buffered_bytes > HIGH_WATER and not self._is_paused and self.is_open:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def _may_add_framing(self, surplus: int) -> bool:
        """Count bytes beyond what the body explains. False if they are too many.

        Attack: a trailer without an end takes memory and time, and is never silent.
        """
        self._framing_bytes = max(self._framing_bytes + surplus, 0)
        if self._framing_bytes <= MAX_FRAMING_BYTES:
            return True
        self._fail(ProtocolError("The response has too little body for its size."))
        return False

    def pause_writing(self) -> None:
        self._active_at = self._loop.time()
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    # Called by the parser.

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise ProtocolError("The server sent a second response to one request.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_head_complete:
            return  # A trailer, which comes too late to be a header.
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:  # It may have some of the body in it.
            self._check_head_size()
        self.status = self._parser.get_status_code()
        if self.status == 101 or not 100 <= self.status <= 599:
            raise ProtocolError(f"The response has status {self.status}.")
        if self.status < 200:
            return  # An interim response, such as 100 or 103: the final one follows.
        self._read_framing()
        self._is_head_complete = True
        self._active_at = self._loop.time()
        if self._timeout != self._read_timeout:
            self._timeout = self._read_timeout
            self._start_read_timer()
        # A server that answers before it has read the whole request may take the rest of that for
        # the next request.
        is_early = self._unsent_bytes or self._transport.get_write_buffer_size()
        self._must_close = bool(is_early) or not self._parser.should_keep_alive()

    def _check_head_size(self) -> None:
        if sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            raise ProtocolError(HEAD_TOO_LARGE)

    def _read_framing(self) -> None:
        """How the body ends, from the two headers that say so."""
        headers = dict(self.headers)  # The parser refuses a second Content-Length.
        length = headers.get(b"content-length")
        if length is not None:
            length = length.rstrip(b" ")
            if not length.isdigit() or len(length) > MAX_LENGTH_DIGITS:
                raise ProtocolError("The Content-Length is not a possible number.")
        if b"transfer-encoding" in headers:
            self._check_transfer_coding()
        elif self.status not in BODILESS_STATUSES:
            self.length = None if length is None else int(length)
            self._ends_at_close = length is None

    def _check_transfer_coding(self) -> None:
        """Raises `ProtocolError` unless it is `chunked`, once."""
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        # The parser does not take `chunked` followed by a tab for chunked, so neither do we.
        if len(codings) > 1 or codings[0].rstrip(b" ").lower() != b"chunked":
            # A caller would get the compressed bytes, with nothing that says so.
            raise ProtocolError("Transfer codings other than chunked are not supported.")

    def on_body(self, body: bytes) -> None:
        if not self._is_head_complete:
            raise ProtocolError("An interim response has a body.")
        self._chunks.append(body)
        self._buffered_bytes += len(body)

    def on_message_complete(self) -> None:
        if self.status < 200:
            self.headers = []
        else:
            self._is_complete = True
            self._ends_at_close = False

"""Gunicorn's ASGI protocol for one connection, made to forget no request and to flood no memory.

As it comes, the timer that should close idle connections is cancelled as soon as it is armed; a
request that arrives before the application has returned from the one before is forgotten, and its
client waits for ever; and a body is read from its sender as fast as it comes, however slowly it
is used.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from gunicorn.asgi import protocol
from gunicorn.asgi.parser import ParseError
from gunicorn.asgi.protocol import ASGIProtocol, _normalize_sockaddr

from keyportal.asgi_types import Headers, Scope
from keyportal.gateway.errors import AddressTooLong, GatewayError, HeadersTooLarge, Malformed
from keyportal.headers import new_request_id
from keyportal.http_request import HTTPRequest

REASONS = {status.value: status.phrase for status in HTTPStatus}
UNREAD = 256 * 1024  # Bytes of a body that may wait for the application.
# What the parser can't read belongs to neither door; programs understand this shape, people too.
UNREADABLE: dict[int, type[GatewayError]] = {
    400: Malformed,
    414: AddressTooLong,
    431: HeadersTooLarge,
}


class BodyReceiver(protocol.BodyReceiver):  # type: ignore[misc]  # untyped base
    """Knows how much of a body waits for the application, so that its sender can be made to.

    And tells when the client goes away: a task that waits for that is a tenth of a call's cost.
    """

    __slots__ = ("_gone", "unread")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.unread = 0
        self._gone: Callable[[], None] | None = None

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call back when the client goes away before the answer is over; now, if it has gone."""
        self._gone = callback
        if self._disconnected:
            callback()

    def signal_disconnect(self) -> None:
        super().signal_disconnect()
        if self._gone is not None:
            self._gone()

    def feed(self, chunk: bytes) -> None:
        self.unread += len(chunk)
        super().feed(chunk)

    def _pop_chunk(self) -> dict[str, Any]:
        message: dict[str, Any] = super()._pop_chunk()
        self.unread -= len(message["body"])
        if self.unread <= UNREAD:
            self.protocol._resume_reading()
        return message


class Signal:
    """asyncio.Event, but for the one task that waits here, and without a call to the system."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> None:
        while not self._is_set:
            self._waiter = self._loop.create_future()
            await self._waiter


class Protocol(ASGIProtocol):  # type: ignore[misc]  # untyped base
    """Knows whether it is idle: between requests, or before the first one's headers are whole."""

    idle_since: float | None
    _body_receiver: BodyReceiver | None
    early = b""
    """The beginning of the next request, which came before this one was over."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.idle_since = self.worker.loop.time()
        self.worker.connections.add(self)
        self._server = _normalize_sockaddr(transport.get_extra_info("sockname"))
        self._client = _normalize_sockaddr(transport.get_extra_info("peername"))
        super().connection_made(transport)

    def _start_http1(self, buffered: bytes = b"") -> None:
        super()._start_http1()
        self._request_ready = Signal(self.worker.loop)
        if buffered:
            self._feed_callback_parser(buffered)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        super().connection_lost(exc)

    def close_if_idle_since(self, moment: float) -> None:
        if self.idle_since is not None and self.idle_since <= moment:
            self._close_transport()

    async def _handle_http_request(self, request: Any, *peers: Any) -> Any:
        self.idle_since = None
        answerer = self.app.answerer(request.path) if not self.log.access_log_enabled else None
        try:
            if answerer is None:
                goes_on = await super()._handle_http_request(request, *peers)
            else:
                # What gunicorn does for an answer in any number of parts costs as much as a
                # verdict.
                answer = await answerer(self._build_http_scope(request))
                self._send_response_start(answer.status, answer.headers, request)
                self._send_body(answer.body)
                goes_on = self.worker.alive and not request.should_close()
        finally:
            self.idle_since = self.worker.loop.time()
        # The parser holds up to 64 KiB that came early, and is about to be reset.
        self.early = self._callback_parser.remaining()
        return goes_on and not self._callback_parser.remaining_truncated and not _is_last(request)

    def _is_websocket_upgrade(self, request: Any) -> bool:
        wants_another = self._callback_parser.get_header(b"upgrade") is not None
        return wants_another and super()._is_websocket_upgrade(request)

    def _build_http_scope(self, request: HTTPRequest, *_ends: Any) -> Scope:
        scope = request.scope(self._server, self._client, self.worker.state, self.cfg.root_path)
        if self._body_receiver is not None:
            scope["keyportal.when_gone"] = self._body_receiver.when_gone
        return scope

    def _arm_keepalive_timer(self) -> None:
        """Called when the parser is ready for the next request; the worker minds idle ones."""
        if self.early:
            early, self.early = self.early, b""
            self.data_received(early)

    def _on_headers_complete(self) -> Any:
        parser = self._callback_parser
        if parser.http_version >= (1, 1) and parser.get_header(b"host") is None:
            raise ParseError  # RFC 9112, 3.2.
        return super()._on_headers_complete()

    def _send_response_start(self, status: int, headers: Headers, request: Any) -> None:
        """The head waits for the first part of the body, to be sent with it.

        As it comes, this asks of each name and value whether it is text, and whether it tells the
        server or the date. What answers here does neither.
        """
        # Whoever was told that the connection closes would wait for that, to its own time-out.
        request.must_close = request.must_close or (b"connection", b"close") in headers
        first = _first_lines(request.version, status, protocol._get_cached_date_header())
        self._response_buffer = b"\r\n".join((first, *map(b": ".join, headers), b"\r\n"))

    def _handle_h1c_exception(self, exc: Exception) -> bool:
        """Answer 400 to all that the fast parser refuses; as it comes, most is a traceback."""
        if super()._handle_h1c_exception(exc):
            return True
        if isinstance(exc, ValueError):
            self._send_error_response(400, "Bad Request")
            self._close_transport()
        return isinstance(exc, ValueError)

    def _send_error_response(self, status: int, message: str) -> None:
        """In our own words: gunicorn would tell the parser's, in the reason phrase too."""
        if status not in UNREADABLE:
            super()._send_error_response(status, message)
            return
        body = UNREADABLE[status]().body()
        lines = [
            f"HTTP/1.1 {status} {self._get_reason_phrase(status)}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-request-id: {new_request_id()}",
            "connection: close",
        ]
        self._safe_write("\r\n".join([*lines, "", ""]).encode() + body)

    def _is_buffer_full(self) -> bool:
        """As it comes, this knows HTTP/2 alone: a body was taken in as fast as it was sent."""
        receiver = self._body_receiver
        return receiver.unread > UNREAD if receiver else super()._is_buffer_full()

    def _get_reason_phrase(self, status: int) -> str:
        # Gunicorn's own table knows no 415 or 426.
        return REASONS.get(status, "Unknown")


@lru_cache(256)
def _first_lines(version: tuple[int, int], status: int, date: bytes) -> bytes:
    """Of an answer, without the end of the last one."""
    reason = REASONS.get(status, "Unknown")
    status_line = protocol._get_cached_status_line(version, status, reason)
    return bytes(status_line + protocol._CACHED_SERVER_HEADER + date[: -len(b"\r\n")])


def _is_last(request: HTTPRequest) -> bool:
    """Whether the connection must close after this one.

    HTTP/1.0 knows no chunks, so the end of the connection is the end of a stream. The body of a
    HEAD is not read, and would pass for the next request: one smuggled past a proxy.
    """
    has_body = request.chunked or request.content_length
    return bool(request.version < (1, 1) or (request.method == "HEAD" and has_body))


# Gunicorn's protocol has no hooks for these classes, but looks them up here for each request.
protocol.BodyReceiver = BodyReceiver
protocol.CallbackRequest = HTTPRequest
# Gunicorn notes on the class that asks whether its fast parser is there, and reads it from the
# base class: asked through a subclass only, it would never find it.
ASGIProtocol._check_h1c_protocol_available()

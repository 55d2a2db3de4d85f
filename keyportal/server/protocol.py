"""HTTP/1.1 on one connection: uvicorn's protocol, and the limits that it leaves to a proxy.

uvicorn's setting `http` takes the class. It uses only public names of `HttpToolsProtocol`: the
methods that asyncio and the parser call, `on_response_complete`, `shutdown`,
`timeout_keep_alive_handler`, and the attributes `cycle`, `pipeline`, `scope`, `headers`, `url`,
`app`. uvicorn documents none of them; `tests/gateway/test_wire_protocol.py` fails if one changes.
"""

import asyncio
import fcntl
import re
import termios
from collections.abc import Callable
from itertools import chain
from typing import Any

import httptools
from django.conf import settings
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from keyportal.gateway.errors import (
    AddressTooLong,
    GatewayError,
    HeadersTooLarge,
    MalformedRequest,
    Overloaded,
)
from keyportal.http.requests import NO_SNIFFING, new_request_id
from keyportal.http.types import ASGIApp, Message, Receive, Scope, Send
from keyportal.server.health import HEALTH_PATHS

MAX_TARGET_BYTES = 8 * 1024
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
MAX_PIPELINED = 100
LINGER_SECONDS = 1.0
# At a stop: how long a connection is kept whose next request has begun to arrive, or whose first
# one has not.
REQUEST_SECONDS = 1.0
# Attack: if one of these is sent twice, a proxy may check the first and we use the second.
SINGLE_HEADERS = (b"host", b"content-type")
NO_BODY = b"\r\ncontent-length: 0\r\n"
# RFC 9110, 4.2.4: a name or password in an http address is an error.
ABSOLUTE_FORM = re.compile(rb"https?://([^/?#@]+)([/?].*)?", re.IGNORECASE | re.DOTALL)


class Protocol(HttpToolsProtocol):
    """One connection. Limits the size of request heads, and refuses ambiguous requests.

    `scope["keyportal.is_all_sent"]()` says whether the network has taken all bytes sent so far.
    `scope["keyportal.on_disconnect"](callback)` calls back when the client disconnects before its
    response is complete. A task that waits for that in `receive` costs a tenth of a call.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._active: RequestResponseCycle | None = None
        """The request that is being answered, or was last. `cycle` is the last that arrived."""
        self._framing_bytes = 0
        """Received since the last complete head or part of a body."""
        self._error: GatewayError | None = None
        self._on_disconnect: Callable[[], None] | None = None
        self._is_disconnected = False
        self._shutdown_at = 0.0
        """When `shutdown` was first called."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # narrower than asyncio's
        self._responses = ResponseTransport(self.transport, self.loop)
        # uvicorn starts this timer only after a response: a client that sends nothing would stay.
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_disconnected = True
        super().connection_lost(exc)
        active = self._active
        if active is not None and not active.response_complete:
            # uvicorn notifies the last request that arrived, which may still wait for its turn.
            active.disconnected = True
            active.message_event.set()
            if self._on_disconnect is not None:
                self._on_disconnect()
        self._on_disconnect = None

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, unless a request on it is being answered.

        `data_received` doesn't stop the timer, so a head must be complete within the idle time.
        """
        if self._is_idle():
            super().timeout_keep_alive_handler()

    def close_after_response(self) -> None:
        """Let the response that is being sent be the last one on this connection."""
        if not self._is_idle():
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection, unless a request is on its way; then after its response.

        The server calls it again and again while it stops. A connection that is closed with a
        request in it is reset, and its client can't know whether the request was served.
        """
        self._shutdown_at = self._shutdown_at or self.loop.time()
        if self._is_idle() and not self._awaits_request() and not self._has_unread_bytes():
            super().shutdown()
        else:
            self.close_after_response()

    def _awaits_request(self) -> bool:
        is_new_or_half = self._active is None or self._framing_bytes > 0
        return is_new_or_half and self.loop.time() < self._shutdown_at + REQUEST_SECONDS

    def _has_unread_bytes(self) -> bool:
        """Whether the kernel has bytes for us that the event loop has not read yet."""
        if self.transport.is_closing():
            return False
        unread = fcntl.ioctl(self.transport.get_extra_info("socket"), termios.FIONREAD, bytes(4))
        return unread != bytes(4)

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return  # Read and discarded, see `_send_error`.
        self._framing_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # Answered like any other request; it is the last on its connection.
        except httptools.HttpParserError as error:
            cause = error.__context__  # The exception of one of our methods, if any.
            self._refuse(cause if isinstance(cause, GatewayError) else MalformedRequest())
            return
        if self._framing_bytes > MAX_HEAD_BYTES:
            is_target = len(self.url) > MAX_TARGET_BYTES
            self._refuse(AddressTooLong() if is_target else HeadersTooLarge())

    def on_headers_complete(self) -> None:
        """Raises a `GatewayError` for a head that is refused; `data_received` catches it."""
        self._framing_bytes = 0
        version = self.parser.get_http_version()
        fields = dict(self.headers)
        self._check_head(version, fields)
        if not self.url.startswith(b"/"):
            self._apply_absolute_form()
        self.scope["keyportal.on_disconnect"] = self._set_on_disconnect  # type: ignore[typeddict-unknown-key]  # ASGI lets a server add keys
        self.scope["keyportal.is_all_sent"] = self._is_all_sent  # type: ignore[typeddict-unknown-key]
        is_next = self._is_idle()
        until_close = None
        if version == "1.0":
            self.app = until_close = UntilClose(self.config.loaded_app)
        super().on_headers_complete()
        self.cycle.transport = self._responses  # type: ignore[assignment]  # what a cycle uses of it
        if until_close is not None:
            until_close.cycle = self.cycle
        if is_next:
            self._active = self.cycle
        path: str = self.scope["path"]
        if self.access_log and path.removeprefix(settings.BASE_PATH) in HEALTH_PATHS:
            self.cycle.access_log = False
        if b"upgrade" in fields and self.parser.should_upgrade():
            self.cycle.keep_alive = False  # The parser drops the data that follows such a request.
        # Attack: the scope holds this list, so trailers of a chunked body would be added to the
        # headers while the application checks those.
        self.headers = []

    def _check_head(self, version: str, fields: dict[bytes, bytes]) -> None:
        if len(self.url) > MAX_TARGET_BYTES:
            raise AddressTooLong
        headers = self.headers
        if len(headers) > MAX_HEADERS or sum(map(len, chain(*headers))) > MAX_HEAD_BYTES:
            raise HeadersTooLarge
        if len(fields) < len(headers):
            names = [name for name, _ in headers]
            if any(names.count(name) > 1 for name in SINGLE_HEADERS):
                raise MalformedRequest
        # RFC 9112, 3.2: HTTP/1.1 requires a Host. The parser also accepts versions 0.9 and 2.0.
        if not (version == "1.1" and b"host" in fields) and version != "1.0":
            raise MalformedRequest
        if len(self.pipeline) >= MAX_PIPELINED:
            raise Overloaded

    def _apply_absolute_form(self) -> None:
        """`GET http://host/path`: its host replaces the one in the header (RFC 9112, 3.2.2).

        The scheme is ignored. Attack: a client that sends its key over plain HTTP writes https
        there, and its request is not refused.
        """
        form = ABSOLUTE_FORM.fullmatch(self.url)
        if form is None:
            raise MalformedRequest
        host, rest = form[1], form[2] or b"/"
        self.url = rest if rest.startswith(b"/") else b"/" + rest
        # The scope holds this very list.
        self.headers[:] = [header for header in self.headers if header[0] != b"host"]
        self.headers.append((b"host", host))

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        self._on_disconnect = None
        self._responses.expects_head = True
        if self.pipeline:
            self._active = self.pipeline[-1][0]
        super().on_response_complete()
        if self._error is not None and self._is_idle():
            self._send_error()

    def _is_idle(self) -> bool:
        return self._active is None or self._active.response_complete

    def _is_all_sent(self) -> bool:
        return self.transport.get_write_buffer_size() == 0

    def _set_on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call back when the client disconnects before its response is complete, or at once if it
        has disconnected already."""
        if self._is_disconnected:
            callback()
        else:
            self._on_disconnect = callback
            # uvicorn stops reading at a large part of a body, until more of it is asked for. While
            # nothing is read, a client that closes the connection is not noticed.
            if not self.pipeline:
                self.flow.resume_reading()

    def _refuse(self, error: GatewayError) -> None:
        """Send an error for a request that can't be read, after the responses to those before it,
        and close the connection."""
        self._error = error
        cycle = self.cycle
        is_in_body = not self._is_idle() and cycle.scope is self.scope
        if is_in_body and self.pipeline:
            self.pipeline.popleft()  # The last that arrived; its application has not started.
        elif is_in_body:
            # The application waits for the rest of this body; for it, the client disconnects.
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
            else:
                self._send_error()
        elif self._is_idle():
            self._send_error()

    def _send_error(self) -> None:
        """Send the error in JSON, which both programs and people can read.

        For LINGER_SECONDS, data that still arrives is read and discarded. If a server closes a
        connection while its client is still sending, TCP resets the connection and the client never
        reads the error.
        """
        if self._error is None or self.transport.is_closing():
            return
        body = self._error.body()
        request_id = new_request_id()
        if on_unreadable := getattr(self.config.app, "on_unreadable", None):
            on_unreadable(self._error, request_id)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id.encode()),
            NO_SNIFFING,
            *self._error.headers,
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[self._error.status] + lines + b"\r\n" + body)
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


class ResponseTransport:
    """What responses are written to. It joins a response's head with what follows at once.

    uvicorn writes the head by itself, and uvloop makes a system call of each write: one more costs
    a twentieth of a call. A head that nothing follows at once is sent in the next turn of the event
    loop, so a stream's head doesn't wait for its first event.
    """

    __slots__ = ("_head", "_loop", "_transport", "expects_head")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self.expects_head = True
        """Nothing of the next response was written yet."""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif self.expects_head:
            self.expects_head = False
            if NO_BODY not in data:  # Nothing follows such a head, as after a verification.
                self._head = data
                self._loop.call_soon(self.flush)
                return
        self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class UntilClose:
    """ASGI middleware for HTTP/1.0, which has no chunked encoding.

    A response without a Content-Length ends when the connection is closed. uvicorn checks each
    part of such a response against `expected_content_length`, which is set just before the part is
    sent.
    """

    cycle: RequestResponseCycle

    def __init__(self, app: Any) -> None:
        self._app: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_length = False

        async def send_unframed(message: Message) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                names = [name.lower() for name, _ in message["headers"]]
                has_length = b"content-length" in names
                self.cycle.chunked_encoding = None if has_length else False
            elif not has_length:
                self.cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, send_unframed)

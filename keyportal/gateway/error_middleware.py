"""The gateway's outermost middleware: request ids, HTTPS only, and error responses."""

import asyncio
import logging
import re
import time

from django.conf import settings

from keyportal.gateway.aliases import expects_anthropic
from keyportal.gateway.calls import Call
from keyportal.gateway.errors import (
    ClientDisconnected,
    GatewayError,
    HTTPSRequired,
    InternalError,
    Unauthorized,
)
from keyportal.gateway.metrics.ended_requests import EndedRequest, Observer, endpoint_label
from keyportal.gateway.relay.encoded_answer import is_encoded
from keyportal.gateway.relay.sse import is_event_stream
from keyportal.http.requests import NO_SNIFFING, content_length, drain_body, new_request_id
from keyportal.http.turns import Turns
from keyportal.http.types import ASGIApp, Headers, Message, Receive, Scope, Send
from keyportal.keys import keystring

SMALL_BODY_BYTES = 64 * 1024
# Attack: a client sends many invalid keys to use up the processor. Each of its connections gets at
# most a hundred responses a second. A request with a valid key is not delayed.
UNAUTHORIZED_DELAY_SECONDS = 0.01
# All refused bodies together get as many turns as those of one team; no slug is empty.
REFUSED = ""
# A request id is written to logs, tables, URLs and another server's headers. So it has no quotes,
# spaces or line breaks, and no slashes, because `..` beside a slash has a meaning in a URL.
REQUEST_ID = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._:+=@-]{0,127}")

logger = logging.getLogger(__name__)


class ErrorMiddleware:
    """ASGI middleware around the gateway: request id, HTTPS only, errors in the client's shape."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._is_https = settings.IS_HTTPS
        self.observers: tuple[Observer, ...] = ()
        """What wants to know of each request that is over: metrics, the access log."""
        self.turns = Turns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self.turns)
        try:
            if self._is_https and scope["scheme"] != "https":
                raise HTTPSRequired
            await self.app(scope, exchange.receive, exchange.send)
            if exchange.is_end_delayed:
                await exchange.linger()
        except GatewayError as error:
            exchange.error = error
            # Their frames have the request's body, which would stay in memory while the error is
            # sent, and then until the garbage collector runs.
            error.__traceback__ = error.__context__ = None
            if isinstance(error, Unauthorized):
                await asyncio.sleep(UNAUTHORIZED_DELAY_SECONDS)
            await exchange.send_error(error)
        except Exception:
            exchange.error = InternalError()
            if exchange.has_started and not exchange.is_event_stream:
                raise
            logger.exception("Request %s failed.", exchange.request_id)
            await exchange.send_error(exchange.error)
        finally:
            if self.observers:
                ended = exchange.ended()
                for observe in self.observers:
                    observe(ended)


class Exchange:
    """One request and its response."""

    __slots__ = (
        "_began",
        "_receive",
        "_scope",
        "_send",
        "_turns",
        "error",
        "has_started",
        "has_unread_body",
        "is_end_delayed",
        "is_event_stream",
        "request_id",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, turns: Turns) -> None:
        self._turns = turns
        self._scope = scope
        self._receive = receive
        self._send = send
        self._began = time.monotonic()
        self.request_id = scope["keyportal.request_id"] = request_id(scope["headers"])
        self.error: GatewayError | None = None
        self.status = 0
        """Of the response; 0 until it has started."""
        self.has_started = False
        self.is_event_stream = False
        self.has_unread_body = True
        self.is_end_delayed = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.has_unread_body = message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            self.status = message["status"]
            headers: Headers = message["headers"]
            self.is_event_stream = is_event_stream(headers) and not is_encoded(headers)
            headers.append((b"x-request-id", self.request_id.encode()))
            headers.append(NO_SNIFFING)
            if self._is_anthropic:
                headers.append((b"request-id", self.request_id.encode()))
            # Attack: the processing time of a refused key could show whether the key exists.
            if message["status"] != 401:
                milliseconds = (time.monotonic() - self._began) * 1000
                headers.append((b"openai-processing-ms", b"%d" % milliseconds))
            call: Call | None = self._scope.get("keyportal.call")
            if call is not None:
                headers.extend(call.model_headers)
                if call.allowance is not None:
                    headers.extend(call.allowance.headers())
            if self.has_unread_body and self._must_drain():
                headers.append((b"connection", b"close"))
        elif self.has_unread_body and not message.get("more_body", False) and self._must_drain():
            # The server closes the connection at the end of the response: see `linger`.
            self.is_end_delayed = True
            message = {**message, "more_body": True}
        await self._send(message)

    async def send_error(self, error: GatewayError) -> None:
        """Send `error` as the response, or as the last event if an event stream has started.

        A small body is read first, and the connection can be reused. After the response to a large
        body, reading goes on for DRAIN_SECONDS, and the connection is closed.
        """
        if self.is_event_stream:
            event = error.event(self.request_id, is_anthropic=self._is_anthropic)
            await self.send({"type": "http.response.body", "body": event})
            await self.linger()
            return
        if self.has_started and isinstance(error, ClientDisconnected):
            return  # There is no client to notify, and no failure to log.
        if self.has_started:
            raise error  # The server closes the connection: the client sees an incomplete response.
        if self.has_unread_body and self._is_body_small():
            await drain_body(self.receive, self._turns.of(REFUSED))
        body = error.body(self.request_id, is_anthropic=self._is_anthropic)
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *error.headers,
        ]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        is_head = self._scope["method"] == "HEAD"
        await self.send({"type": "http.response.body", "body": b"" if is_head else body})
        await self.linger()

    async def linger(self) -> None:
        """After a response that was sent before the whole request arrived, drain the body."""
        if not self.is_end_delayed:
            return
        if self.has_unread_body:
            await drain_body(self.receive, self._turns.of(REFUSED))
        await self._send({"type": "http.response.body", "body": b""})

    def ended(self) -> EndedRequest:
        """What is known of this request when it is over."""
        call: Call | None = self._scope.get("keyportal.call")
        error, seconds = self.error, time.monotonic() - self._began
        status = self.status or (error.status if error else 499)
        code = error.code or "" if error else ""
        if call is None:
            path: str = self._scope["path"]
            return EndedRequest(self.request_id, endpoint_label(path), status, seconds, code)
        first_byte = None if call.first_byte is None else call.first_byte - self._began
        return EndedRequest(
            self.request_id,
            call.endpoint or endpoint_label(self._scope["path"]),
            call.status or status,
            seconds,
            code,
            call.model,
            call.verdict.current_slug,
            call.verdict.public_id,
            call.attempts[-1].upstream if call.attempts else "",
            first_byte,
            call.tokens.prompt,
            call.tokens.completion,
        )

    @property
    def _is_anthropic(self) -> bool:
        return expects_anthropic(self._scope["path"], self._scope["headers"])

    def _must_drain(self) -> bool:
        """Whether to read and discard the body, of which not all was read."""
        return content_length(self._scope) > 0

    def _is_body_small(self) -> bool:
        # A client that expects 100 Continue waits for us, so we must not wait for its body.
        expects_continue = any(name == b"expect" for name, _ in self._scope["headers"])
        return not expects_continue and content_length(self._scope) <= SMALL_BODY_BYTES


def request_id(headers: Headers) -> str:
    """Return the client's `x-request-id` if it is valid, else a new id."""
    if b"x-request-id" not in dict(headers):
        return new_request_id()  # As usual, and without a look at each header.
    values = [value for name, value in headers if name == b"x-request-id"]
    if len(values) == 1:
        text = values[0].decode("latin-1")
        # Attack or mistake: the id contains a key string. It would be logged and sent upstream.
        if REQUEST_ID.fullmatch(text) and keystring.redact(text) == text:
            return text
    return new_request_id()

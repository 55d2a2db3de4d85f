"""The gateway's outer edge: every request gets an id, and every refusal reaches its caller."""

import asyncio
import logging
import re
import time

from django.conf import settings

from keyportal.gateway.calls import Call
from keyportal.gateway.errors import (
    ClientGone,
    GatewayError,
    HTTPSRequired,
    InternalError,
    Unauthorized,
    is_anthropic,
)
from keyportal.gateway.relay.sse import is_event_stream
from keyportal.http.requests import content_length, drain_body, new_request_id
from keyportal.http.types import ASGIApp, Headers, Message, Receive, Scope, Send
from keyportal.keys import keystring

SMALL_BODY = 64 * 1024
# A refused key costs little, and so much of the core could go to whoever fires bad ones: each
# connection gets a hundred answers a second at most. Nobody with a good key meets this.
UNAUTHORIZED_SECONDS = 0.01
# It goes into logs, tables, addresses and another server's headers: no quotes, no spaces, no line
# breaks, and no slashes, beside which dots would have a meaning of their own.
REQUEST_ID = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._:+=@-]{0,127}")

logger = logging.getLogger(__name__)


class ErrorMiddleware:
    """ASGI middleware around the gateway: request id, HTTPS only, errors in OpenAI's shape."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._is_https = settings.IS_HTTPS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            if self._is_https and scope["scheme"] != "https":
                raise HTTPSRequired
            await self.app(scope, exchange.receive, exchange.send)
            if exchange.holds_end:
                await exchange.linger()
        except GatewayError as error:
            if isinstance(error, Unauthorized):
                await asyncio.sleep(UNAUTHORIZED_SECONDS)
            await exchange.refuse(error)
        except Exception:
            if exchange.has_begun and not exchange.is_event_stream:
                raise
            logger.exception("Request %s failed.", exchange.request_id)
            await exchange.refuse(InternalError())


class Exchange:
    """One request and its answer, as seen at the edge."""

    __slots__ = (
        "_began",
        "_receive",
        "_scope",
        "_send",
        "has_begun",
        "has_body_left",
        "holds_end",
        "is_event_stream",
        "request_id",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._began = time.monotonic()
        self.request_id = scope["keyportal.request_id"] = request_id(scope["headers"])
        self.has_begun = False
        self.is_event_stream = False
        self.has_body_left = True
        self.holds_end = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.has_body_left = message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers: Headers = message["headers"]
            self.is_event_stream = is_event_stream(headers)
            headers.append((b"x-request-id", self.request_id.encode()))
            if is_anthropic(self._scope["path"]):
                headers.append((b"request-id", self.request_id.encode()))
            # A refused key's answer tells nothing of how long it was looked for.
            if message["status"] != 401:
                took = (time.monotonic() - self._began) * 1000
                headers.append((b"openai-processing-ms", b"%d" % took))
            call: Call | None = self._scope.get("keyportal.call")
            if call is not None and call.allowance is not None:
                headers.extend(call.allowance.headers())
            if self._is_body_left():
                headers.append((b"connection", b"close"))
        elif not message.get("more_body", False) and self._is_body_left():
            # With the end of the answer the server closes the connection: see `linger`.
            self.holds_end = True
            message = {**message, "more_body": True}
        await self._send(message)

    async def refuse(self, error: GatewayError) -> None:
        """Answer with `error`; as the last event, where an event stream has already begun.

        A small body is read first, and the connection can go on; a large one is read on for a
        second after the answer, which says that the connection will close.
        """
        if self.is_event_stream:
            event = error.event(self._scope["path"], self.request_id)
            await self.send({"type": "http.response.body", "body": event})
            await self.linger()
            return
        if self.has_begun and isinstance(error, ClientGone):
            return  # Nobody is there to miss the end, and it is no failure to log.
        if self.has_begun:
            raise error  # The server cuts the connection: a missing end is all we can say now.
        if self.has_body_left and self._is_body_small():
            await drain_body(self.receive)
        body = error.body(self._scope["path"], self.request_id)
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *error.headers,
        ]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        sent = b"" if self._scope["method"] == "HEAD" else body
        await self.send({"type": "http.response.body", "body": sent})
        await self.linger()

    async def linger(self) -> None:
        """After an answer that came before the end of its request, read on for a while."""
        if not self.holds_end:
            return
        if self.has_body_left:
            await drain_body(self.receive)
        await self._send({"type": "http.response.body", "body": b""})

    def _is_body_left(self) -> bool:
        return self.has_body_left and content_length(self._scope) > 0

    def _is_body_small(self) -> bool:
        # Whoever waits to be told to go on would wait for us, and we for them.
        is_held_back = any(name == b"expect" for name, _ in self._scope["headers"])
        return not is_held_back and content_length(self._scope) <= SMALL_BODY


def request_id(headers: Headers) -> str:
    """The caller's own `x-request-id`, if it sent one that is harmless; else a new one."""
    given = [value for name, value in headers if name == b"x-request-id"]
    if len(given) == 1:
        text = given[0].decode("latin-1")
        # Someone may send a key there: what is logged and passed on never holds one.
        if REQUEST_ID.fullmatch(text) and keystring.redact(text) == text:
            return text
    return new_request_id()

"""Reads request bodies into memory and limits concurrency, before Django sees a request.

The portal's pages and the management API share the process with the gateway, and each of their
requests takes a thread. So a body is read completely before its request gets a thread, the number
of concurrent requests is limited, and a request gives its slot back when its response begins.
Attack: many clients send or read slowly. They delay neither the gateway, nor other people, nor the
stop of the server.
"""

import asyncio
from collections.abc import Callable

from keyportal.http.requests import NO_SNIFFING, content_length, drain_body
from keyportal.http.turns import Turns
from keyportal.http.types import ASGIApp, Headers, Message, Receive, Scope, Send

# A form has a few hundred bytes. Django would write a body of any size to disk before it looks.
MAX_FORM_BYTES = 1024 * 1024
FORM_SECONDS = 20.0
MAX_CONCURRENT = 16
MAX_WAITING = 500


ErrorRenderer = Callable[[int, str], tuple[Headers, bytes]]
"""Makes the headers and the body of an error response from its status and message."""


def plain_text_error(_: int, message: str) -> tuple[Headers, bytes]:
    return [(b"content-type", b"text/plain; charset=utf-8")], f"{message}\n".encode()


class RequestBuffer:
    """ASGI middleware: reads the whole body, and limits how many requests run concurrently.

    It answers 413 to a body of more than `max_bytes` or of unknown length, 408 to one that takes
    longer than FORM_SECONDS, and 503 when MAX_WAITING requests wait for a slot already.
    `render_error` makes these responses.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int = MAX_FORM_BYTES,
        max_concurrent: int = MAX_CONCURRENT,
        render_error: ErrorRenderer = plain_text_error,
    ) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._render_error = render_error
        self._slots = asyncio.Semaphore(max_concurrent)
        self._waiting = 0
        self._turns = Turns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if content_length(scope) > self._max_bytes:
            await self._send_error(send, 413, "The form is too large.", receive)
            return
        try:
            async with asyncio.timeout(FORM_SECONDS):
                messages = await _read_body(receive)
        except TimeoutError:
            await self._send_error(send, 408, "The form took too long to arrive.", receive)
            return
        if self._waiting >= MAX_WAITING:
            await self._send_error(send, 503, "Too many people at once. Try again shortly.")
            return
        await self._run(scope, _replay(messages, receive), send)

    async def _send_error(
        self, send: Send, status: int, message: str, unread: Receive | None = None
    ) -> None:
        """`unread` receives the rest of the body, if it has not been read completely."""
        headers, body = self._render_error(status, message)
        length = (b"content-length", str(len(body)).encode())
        headers += [length, NO_SNIFFING, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": unread is not None})
        if unread is not None:
            # Before the end of the response, because the server then closes the connection.
            await drain_body(unread, self._turns)
            await send({"type": "http.response.body", "body": b""})

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        slot = Slot(self._slots, send)
        try:
            await self.app(scope, receive, slot.send)
        finally:
            slot.release()


class Slot:
    """One of the concurrent requests. It ends when the response begins, and is released once."""

    def __init__(self, slots: asyncio.Semaphore, send: Send) -> None:
        self._slots = slots
        self._send = send
        self._is_released = False

    async def send(self, message: Message) -> None:
        self.release()
        await self._send(message)

    def release(self) -> None:
        if not self._is_released:
            self._is_released = True
            self._slots.release()


async def _read_body(receive: Receive) -> list[Message]:
    """Return the messages of the whole body; the last one may be a disconnect."""
    messages = [await receive()]
    while messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """Return a `receive` that gives these messages first, and then those of `receive`."""
    remaining = iter(messages)

    async def receive_again() -> Message:
        for message in remaining:
            return message
        return await receive()

    return receive_again

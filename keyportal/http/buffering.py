"""What stands in front of the portal's pages and of the management API, before Django sees a
request.

The portal shares its process with the gateway, and each of its requests takes a thread. So a
form is read whole before it may have one, only so many have one at a time, and none keeps its
place while the answer travels: whoever sends slowly, reads slowly, or sends a crowd, holds up
neither the gateway nor the next person nor the stop of the server.
"""

import asyncio
from collections.abc import Callable

from keyportal.http.requests import content_length, drain_body
from keyportal.http.types import ASGIApp, Headers, Message, Receive, Scope, Send

# A form here is a few hundred bytes. Django would spool any size to disk before looking at it.
MAX_FORM_BYTES = 1024 * 1024
FORM_SECONDS = 20.0
MAX_CONCURRENT = 16
MAX_WAITING = 500


Refusal = Callable[[int, str], tuple[Headers, bytes]]
"""Status and sentence become headers and body."""


def plain_text_response(_: int, sentence: str) -> tuple[Headers, bytes]:
    return [(b"content-type", b"text/plain; charset=utf-8")], f"{sentence}\n".encode()


class RequestBuffer:
    """ASGI middleware: reads the form, refuses what is too large or too slow, and lets wait.

    `largest` is in bytes; `refusal` puts a refusal into words.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        largest: int = MAX_FORM_BYTES,
        at_once: int = MAX_CONCURRENT,
        refusal: Refusal = plain_text_response,
    ) -> None:
        self.app = app
        self._largest = largest
        self._refusal = refusal
        self._places = asyncio.Semaphore(at_once)
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if content_length(scope) > self._largest:
            await self._refuse(send, 413, "The form is too large.", receive)
            return
        try:
            async with asyncio.timeout(FORM_SECONDS):
                form = await _read(receive)
        except TimeoutError:
            await self._refuse(send, 408, "The form took too long to arrive.", receive)
            return
        if self._waiting >= MAX_WAITING:
            await self._refuse(send, 503, "Too many people at once. Try again shortly.")
            return
        await self._enter(scope, _again(form, receive), send)

    async def _refuse(
        self, send: Send, status: int, sentence: str, unread: Receive | None = None
    ) -> None:
        """`unread` is where the rest of the form comes from, if there is any."""
        headers, body = self._refusal(status, sentence)
        headers += [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": unread is not None})
        if unread is not None:
            # Before the end of the answer, with which the server closes the connection.
            await drain_body(unread)
            await send({"type": "http.response.body", "body": b""})

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        place = Slot(self._places, send)
        try:
            await self.app(scope, receive, place.send)
        finally:
            place.leave()


class Slot:
    """One request's leave to use a thread: until its answer begins, and is given back once."""

    def __init__(self, places: asyncio.Semaphore, send: Send) -> None:
        self._places = places
        self._send = send
        self._is_held = True

    async def send(self, message: Message) -> None:
        self.leave()
        await self._send(message)

    def leave(self) -> None:
        if self._is_held:
            self._is_held = False
            self._places.release()


async def _read(receive: Receive) -> list[Message]:
    """The whole form, as the messages in which it came; the last may say that nobody is there."""
    messages = [await receive()]
    while messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _again(messages: list[Message], receive: Receive) -> Receive:
    """Hand out what was read already, then whatever comes."""
    left = iter(messages)

    async def receive_again() -> Message:
        for message in left:
            return message
        return await receive()

    return receive_again

"""Reading the body of a call: its media type, its coding, and its limits of size and time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from django.conf import settings

from keyportal.gateway.errors import BadRequest, BodyTooLarge, SlowBody, UnsupportedMediaType
from keyportal.gateway.relay.content_encoding import Decoder, decoder_for
from keyportal.http.requests import UNKNOWN, length_of_body
from keyportal.http.turns import Pace, Turns
from keyportal.http.types import Receive, Scope

JSON = b"application/json"
MAX_BODY_SECONDS = 300.0  # For a whole body; 20 MiB in this time is 0.5 Mbit/s.
# Attack: a thousand calls of a kilobyte each, which decode to 20 MiB, use up the memory. Text and
# pictures in base64 are compressed to a twentieth at best.
MAX_RATIO = 100
FREE_BYTES = 1024 * 1024  # Decoded, of each body.
# Nearly all bodies are smaller. No memory is reserved for those.
SMALL_BYTES = 64 * 1024
# What a larger body takes first if its length is not known, and then twice as much each time.
FIRST_BYTES = 1024 * 1024

# Clients that name no type, or their library's default, send JSON all the same: `curl -d` says that
# it is a form. A browser sends these types to other sites without asking them (CORS preflight), so
# elsewhere a check of the type protects from requests that a foreign page makes in a user's name
# (CSRF). Here nothing depends on it: a call is made in the name of a key, which is read from the
# headers `Authorization` and `x-api-key` only, never from a cookie. No page can send these to
# another site without a preflight, nor a key that it doesn't know.
_TAKEN_AS_JSON = frozenset({b"", b"text/plain", b"application/x-www-form-urlencoded"})


Reserve = Callable[[int], Awaitable[None]]
"""Waits until the body may take this many bytes of memory."""


async def read_body(
    scope: Scope, receive: Receive, reserve: Reserve, turns: Turns
) -> bytes | bytearray:
    """The whole JSON body, decoded; a `bytearray` if it is not small, with memory reserved.

    Raises what `open_body`, the reader's `next_chunk` and `reserve` raise.
    """
    reader = open_body(scope, receive, JSON)
    size = SMALL_BYTES
    if SMALL_BYTES < reader.length < UNKNOWN:
        size = int(reader.length)
        await reserve(size)
    chunk = await reader.next_chunk()
    if reader.is_over and len(chunk) <= SMALL_BYTES:
        return chunk
    # In place: chunks that are joined at the end need twice the memory, and an array that grows
    # with each of them is copied ten times.
    body, end = bytearray(size), 0
    pace = Pace(turns)
    while True:
        start, end = end, end + len(chunk)
        if end > len(body):
            size = reserved_size(end)
            await reserve(size)
            larger = bytearray(size)
            larger[:start] = memoryview(body)[:start]
            body = larger
        body[start:end] = chunk
        if reader.is_over:
            break
        await pace.after(len(chunk))
        chunk = b""  # Free it before the next one arrives.
        chunk = await reader.next_chunk()
    del body[end:]
    return bytes(body) if end <= SMALL_BYTES else body


def reserved_size(size: int) -> int:
    """What a body of unknown length reserves when it has reached this size."""
    return max(min(max(2 * size, FIRST_BYTES), settings.MAX_BODY_BYTES), size)


class BodyReader(Protocol):
    """Reads a request body chunk by chunk."""

    length: float
    """Bytes, if the client has declared them; else 0 or infinite."""
    is_over: bool
    """The last chunk was read."""

    async def next_chunk(self) -> bytes:
        """The next chunk, which may be empty.

        Raises `BodyTooLarge`, `SlowBody`, or `BadRequest` if it can't be decoded.
        """


def open_body(scope: Scope, receive: Receive, expected: bytes) -> BodyReader:
    """Check the headers of a body of the media type `expected`, before any of it is read.

    Raises `UnsupportedMediaType`, or `BodyTooLarge` if the Content-Length is too large.
    """
    headers = dict(scope["headers"])
    content_type = headers.get(b"content-type", b"")
    if content_type != expected and not _is_type(content_type, expected):
        raise UnsupportedMediaType(expected)
    decoder = decoder_for(scope["headers"]) if b"content-encoding" in headers else None
    length, max_bytes = length_of_body(headers), settings.MAX_BODY_BYTES
    if max_bytes < length < UNKNOWN:
        raise BodyTooLarge(max_bytes)
    reader = ReceivedBody(receive, length, max_bytes)
    return DecodedBody(reader, decoder) if decoder else reader


def _is_type(content_type: bytes, expected: bytes) -> bool:
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type == expected or (expected == JSON and _is_taken_as_json(media_type))


def _is_taken_as_json(media_type: bytes) -> bool:
    is_json_based = media_type.startswith(b"application/") and media_type.endswith(b"+json")
    return is_json_based or media_type in _TAKEN_AS_JSON


class ReceivedBody:
    """Reads a body as it was sent, within the limits of size and time.

    This class ends the call of a client that sends slowly; `ActiveCalls` ends that of a client that
    sends nothing. It is not an async generator, because the event loop registers each of those,
    for each call.
    """

    __slots__ = ("_deadline", "_max_bytes", "_receive", "is_over", "length", "size")

    def __init__(self, receive: Receive, length: float, max_bytes: int) -> None:
        self._receive = receive
        self.length = length
        self._max_bytes = max_bytes
        self._deadline = time.monotonic() + MAX_BODY_SECONDS
        self.size = 0
        """Bytes so far."""
        self.is_over = False

    async def next_chunk(self) -> bytes:
        message = await self._receive()
        is_late = time.monotonic() > self._deadline
        if message["type"] == "http.disconnect" or is_late:
            raise SlowBody  # After a disconnect there is no client to read this.
        chunk: bytes = message["body"]
        self.size += len(chunk)
        if self.size > self._max_bytes:
            raise BodyTooLarge(self._max_bytes)
        self.is_over = not message["more_body"]
        return chunk


class DecodedBody:
    """Decodes a compressed body while it arrives, within the same limit of size."""

    def __init__(self, reader: ReceivedBody, decoder: Decoder) -> None:
        self._reader = reader
        self._decoder = decoder
        self.length = UNKNOWN
        self._size = 0
        self.is_over = False

    async def next_chunk(self) -> bytes:
        block = self._decoder.decode(await self._next_data())
        self._size += len(block)
        if self._size > settings.MAX_BODY_BYTES:
            raise BodyTooLarge(settings.MAX_BODY_BYTES)
        if self._size > FREE_BYTES and self._size > MAX_RATIO * self._reader.size:
            raise BadRequest(
                f"The request body is compressed to less than a {MAX_RATIO}th of its size. Send "
                "it uncompressed."
            )
        self.is_over = self._reader.is_over and not self._decoder.has_more
        if self.is_over:
            self._decoder.check_complete()
        return block

    async def _next_data(self) -> bytes:
        if self._decoder.has_more:
            await asyncio.sleep(0)  # Let other calls run between two blocks.
            return b""
        return await self._reader.next_chunk()

"""Reading the body of a call: its size and time limits, and the few fields that we parse."""

import time
from typing import NamedTuple

import msgspec
from django.conf import settings

from keyportal.gateway.errors import (
    BadRequest,
    BodyTooLarge,
    MissingModel,
    SlowBody,
    UnsupportedMediaType,
)
from keyportal.http.requests import UNKNOWN, content_length
from keyportal.http.types import Receive, Scope

JSON = b"application/json"
MAX_BODY_SECONDS = 300.0  # For a whole body; 20 MiB in this time is 0.5 Mbit/s.

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_options = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole JSON body.

    Raises what `check_headers` and `RequestBodyReader.next_chunk` raise.
    """
    check_headers(scope, JSON)
    reader, chunks = RequestBodyReader(receive), []
    while (chunk := await reader.next_chunk()) is not None:
        chunks.append(chunk)
    return b"".join(chunks)


def check_headers(scope: Scope, expected: bytes) -> None:
    """Check the headers of a body of the media type `expected`, before any of it is read.

    Raises `UnsupportedMediaType`, or `BodyTooLarge` if the Content-Length is too large.
    """
    headers = dict(scope["headers"])
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != expected or headers.get(b"content-encoding", b"") not in _UNCOMPRESSED:
        raise UnsupportedMediaType(expected)
    length = content_length(scope)
    if settings.MAX_BODY_BYTES < length < UNKNOWN:
        raise BodyTooLarge(settings.MAX_BODY_BYTES)


_UNCOMPRESSED = frozenset({b"", b"identity"})


class RequestBodyReader:
    """Reads a request body chunk by chunk, within the limits of size and time.

    This class ends the call of a client that sends slowly; `ActiveCalls` ends that of a client that
    sends nothing. It is not an async generator, because the event loop registers each of those,
    for each call.
    """

    __slots__ = ("_deadline", "_is_over", "_receive", "_size")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._deadline = time.monotonic() + MAX_BODY_SECONDS
        self._size = 0
        self._is_over = False

    async def next_chunk(self) -> bytes | None:
        """The next chunk, or None after the last one. Raises `BodyTooLarge` or `SlowBody`."""
        if self._is_over:
            return None
        message = await self._receive()
        is_late = time.monotonic() > self._deadline
        if message["type"] == "http.disconnect" or is_late:
            raise SlowBody  # After a disconnect there is no client to read this.
        chunk: bytes = message["body"]
        self._size += len(chunk)
        if self._size > settings.MAX_BODY_BYTES:
            raise BodyTooLarge(settings.MAX_BODY_BYTES)
        self._is_over = not message["more_body"]
        return chunk


class CallRequest(NamedTuple):
    """The JSON body of a call: the served model's name, and all fields, whose values stay raw."""

    model: str
    fields: dict[str, msgspec.Raw]

    @property
    def content_type(self) -> bytes:
        return JSON

    def close(self) -> None:
        """There is nothing to close."""

    def body_for(self, model: str) -> bytes:
        """The body for an upstream that calls the model `model`.

        Nested values are passed on unchanged. Attack: with the field `model` twice, a caller could
        have one model checked here and another one used by the upstream. So each name is sent once.
        """
        self.fields["model"] = msgspec.Raw(msgspec.json.encode(model))
        return msgspec.json.encode(self.fields)

    def require_foreground(self) -> None:
        """Raises `BadRequest` for `"background": true`, and for what a server may take for true.

        Its answer comes before the work. Attack: only that first answer's usage would be counted.
        """
        if self.fields.get("background", _FALSE) not in (_FALSE, _NULL):
            raise BadRequest(
                "Answers in the background are not supported here. Send the request without "
                "`background`, and with `stream` if it takes long."
            )

    def request_usage(self) -> bool:
        """Ask for a usage event at the end of a stream. True if the caller did not ask for it.

        Invalid `stream_options` are passed on, for the upstream to refuse. Raises `BadRequest` if
        `stream` is not a boolean.
        """
        if self.fields.get("stream", _FALSE) not in _BOOLEANS:
            # Attack: a server that accepts 1 or "true" would stream, and send no usage.
            raise BadRequest("`stream` must be true or false.")
        if self.fields.get("stream") != _TRUE:
            return False
        try:
            options = _options.decode(self.fields.get("stream_options", b"null")) or {}
        except msgspec.DecodeError:
            return False
        is_missing = options.get("include_usage") != _TRUE
        if is_missing:
            options["include_usage"] = _TRUE
            self.fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
        return is_missing


_TRUE, _FALSE, _NULL = msgspec.Raw(b"true"), msgspec.Raw(b"false"), msgspec.Raw(b"null")
_BOOLEANS = (_TRUE, _FALSE, _NULL)


def parse_call(body: bytes) -> CallRequest:
    """Parse a JSON body.

    Raises `BadRequest` if it is not a JSON object, and `MissingModel` if it names no model.
    """
    try:
        # Decoded to text first, because msgspec doesn't check the UTF-8 of raw values, and an
        # upstream must get valid JSON only.
        fields = _fields.decode(body.decode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # msgspec raises RecursionError for deep nesting.
        raise BadRequest from None
    try:
        model = _text.decode(fields["model"])
    except (KeyError, msgspec.DecodeError):
        raise MissingModel from None
    return CallRequest(model, fields)

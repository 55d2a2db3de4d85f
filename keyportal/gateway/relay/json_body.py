"""The body of a call: how much of it we take, and the little of it that we read."""

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
BODY_SECONDS = 300.0  # For a whole body; 20 MiB in this time is 0.5 Mbit/s.

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_options = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole JSON body. Raises what `accept` and `Incoming.part` raise."""
    accept(scope, JSON)
    incoming, parts = Incoming(receive), []
    while (part := await incoming.part()) is not None:
        parts.append(part)
    return b"".join(parts)


def accept(scope: Scope, expected: bytes) -> None:
    """Check the headers of a body of the media type `expected`, before any of it is read.

    Raises `UnsupportedMediaType`, or `BodyTooLarge` where it says so of itself.
    """
    headers = dict(scope["headers"])
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != expected or headers.get(b"content-encoding", b"") not in _PLAIN:
        raise UnsupportedMediaType(expected)
    declared = content_length(scope)
    if settings.MAX_BODY_BYTES < declared < UNKNOWN:
        raise BodyTooLarge(settings.MAX_BODY_BYTES)


_PLAIN = frozenset({b"", b"identity"})


class Incoming:
    """A body as it comes. No generator: the event loop keeps a list of those, for each call.

    Each part is waited for by the server, for its own time-out; all of them together here.
    """

    __slots__ = ("_deadline", "_is_over", "_receive", "_size")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._deadline = time.monotonic() + BODY_SECONDS
        self._size = 0
        self._is_over = False

    async def part(self) -> bytes | None:
        """The next part, or None after the last. Raises `BodyTooLarge` or `SlowBody`."""
        if self._is_over:
            return None
        message = await self._receive()
        is_late = time.monotonic() > self._deadline
        if message["type"] == "http.disconnect" or is_late:
            raise SlowBody  # Or the client is gone, and nobody reads this.
        part: bytes = message["body"]
        self._size += len(part)
        if self._size > settings.MAX_BODY_BYTES:
            raise BodyTooLarge(settings.MAX_BODY_BYTES)
        self._is_over = not message["more_body"]
        return part


class CallRequest(NamedTuple):
    """What a caller asks for: the model, by its served name, and everything else unread."""

    model: str
    fields: dict[str, msgspec.Raw]

    @property
    def content_type(self) -> bytes:
        return JSON

    def close(self) -> None:
        """There is nothing to give back."""

    def addressed_to(self, model: str) -> bytes:
        """The body for an upstream that calls the model `model`.

        Nested bytes are as they came. A name that stood twice now stands once, so the upstream
        can't read another model than the one that was judged.
        """
        self.fields["model"] = msgspec.Raw(msgspec.json.encode(model))
        return msgspec.json.encode(self.fields)

    def ask_for_usage(self) -> bool:
        """Let a stream end with what it used. True where the caller has not asked for it.

        Options that make no sense are the upstream's to refuse.
        """
        if self.fields.get("stream", _FALSE) not in _SWITCH:
            # A server that takes 1 or "true" for it would stream, and tell nobody what was used.
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


_TRUE, _FALSE = msgspec.Raw(b"true"), msgspec.Raw(b"false")
_SWITCH = (_TRUE, _FALSE, msgspec.Raw(b"null"))


def read_call(body: bytes) -> CallRequest:
    """Raises `BadRequest` for anything but a JSON object, `MissingModel` without a model."""
    try:
        # As text, because msgspec leaves bytes unread where the value stays raw: what is no UTF-8
        # is no JSON, and nobody behind us shall have to find that out.
        fields = _fields.decode(body.decode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Deep nesting is a RecursionError here, not a decode error.
        raise BadRequest from None
    try:
        model = _text.decode(fields["model"])
    except (KeyError, msgspec.DecodeError):
        raise MissingModel from None
    return CallRequest(model, fields)

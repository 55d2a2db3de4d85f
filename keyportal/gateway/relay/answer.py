"""An answer on its way to a caller: status, headers, and a body that is whole or a stream.

The relay makes answers of what an upstream sends, the demo model and the gateway's own endpoints
make theirs here.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from keyportal.http.types import Headers


class BodyStream(Protocol):
    """A body that is read part by part."""

    async def next(self) -> bytes:
        """The next part; empty after the last."""

    def close(self) -> None:
        """Stop reading: the rest is not wanted."""


class BufferedBody:
    """A stream whose parts are all in memory."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = iter(parts)

    async def next(self) -> bytes:
        return next(self._parts, b"")

    def close(self) -> None:
        """There is nothing to stop."""


class Answer(NamedTuple):
    """Headers that may go to the caller, and the body: whole, or as a stream."""

    status: int
    headers: Headers
    body: bytes | BodyStream

    def close(self) -> None:
        """Stop reading the body, so that its upstream stops too."""
        if not isinstance(self.body, bytes):
            self.body.close()


def json_answer(content: object) -> Answer:
    body = msgspec.json.encode(content)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    return Answer(200, headers, body)


def stream_answer(events: Iterable[bytes]) -> Answer:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    return Answer(200, headers, BufferedBody(tuple(events)))

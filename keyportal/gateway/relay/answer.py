"""An answer to a caller: status, headers, and a body that is complete or a stream.

The relay makes answers from upstream responses. The demo model and the gateway's own endpoints
make theirs with the functions below.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from keyportal.http.types import Headers


class BodyStream(Protocol):
    """A body that is read chunk by chunk."""

    async def next_chunk(self) -> bytes:
        """The next chunk; empty after the last one."""

    def close(self) -> None:
        """Stop reading: the rest is not needed."""


class BufferedBody:
    """A stream whose chunks are all in memory."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = iter(chunks)

    async def next_chunk(self) -> bytes:
        return next(self._chunks, b"")

    def close(self) -> None:
        """There is nothing to stop."""


class Answer(NamedTuple):
    """Headers that may be sent to the caller, and the body: complete, or as a stream."""

    status: int
    headers: Headers
    body: bytes | BodyStream

    def close(self) -> None:
        """Stop reading the body, so that the upstream stops too."""
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

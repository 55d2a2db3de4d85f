"""The id of an answer of `/v1/responses`, read as the answer passes.

Only the id at the top level is read, or that of the first event's `response`. Attack: a caller
sends metadata with another team's id in it, and the answer repeats the metadata. An id that is
found anywhere would then count as one of this caller's team.
"""

import re
from collections.abc import Awaitable, Callable

import msgspec

from keyportal.gateway.relay.answer import BodyStream
from keyportal.gateway.relay.sse import CompleteEvents
from keyportal.usage.models import MAX_RESPONSE_ID

# Of a longer answer that is no stream, the id is read only if it comes first.
MAX_BYTES = 1024 * 1024
# What an id may be in a URL. Attack: `../files` as an id leads to another path of the model server.
ID = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_RESPONSE_ID - 2}}}={{0,2}}")
_FIRST_ID = re.compile(rb'\s*\{\s*"id"\s*:\s*("[^"\\]*")')
_DATA_LINES = re.compile(rb"^data:(.*)$", re.MULTILINE)


class _Answer(msgspec.Struct):
    id: str = ""


class _Event(msgspec.Struct):
    response: _Answer | None = None


_answer_decoder = msgspec.json.Decoder(_Answer)
_event_decoder = msgspec.json.Decoder(_Event)
_text_decoder = msgspec.json.Decoder(str)


def id_of_answer(answer: bytes) -> str:
    """The id of a complete answer, or of one that begins with its id; empty for none."""
    try:
        if len(answer) <= MAX_BYTES:
            return _valid(_answer_decoder.decode(answer).id)
        first = _FIRST_ID.match(answer)
        return _valid(_text_decoder.decode(first[1])) if first else ""
    except (msgspec.DecodeError, RecursionError):
        return ""


def id_of_event(event: bytes) -> str:
    """The id of the answer that this event announces, such as `response.created`."""
    try:
        data = b"\n".join(_DATA_LINES.findall(event.replace(b"\r", b"\n")))
        response = _event_decoder.decode(data).response
    except (msgspec.DecodeError, RecursionError):
        return ""
    return _valid(response.id) if response else ""


def _valid(id_: str) -> str:
    return id_ if ID.fullmatch(id_) else ""


class WatchedBody:
    """The same bytes as `body`. Awaits `found(id)` before it returns the bytes after which a client
    may use the id: the first event of a stream, or the end of another answer.
    """

    __slots__ = ("_found", "_is_events", "_is_searching", "_start", "_stream")

    def __init__(
        self, body: BodyStream, found: Callable[[str], Awaitable[None]], *, is_events: bool
    ) -> None:
        self._stream = CompleteEvents(body) if is_events else body
        self._found = found
        self._is_events = is_events
        self._is_searching = True
        self._start = bytearray()

    async def next_chunk(self) -> bytes:
        chunk = await self._stream.next_chunk()
        if self._is_searching and (id_ := self._search(chunk)):
            await self._found(id_)
        return chunk

    def close(self) -> None:
        self._stream.close()

    def _search(self, chunk: bytes) -> str:
        """The id, once it is known."""
        if self._is_events:
            # Comments may come before the first event.
            self._is_searching = b"data:" not in chunk
            first = chunk[chunk.find(b"data:") :]
            return "" if self._is_searching else id_of_event(_first_event(first))
        self._start += chunk
        self._is_searching = bool(chunk) and len(self._start) <= MAX_BYTES
        if self._is_searching:
            return ""
        id_ = id_of_answer(bytes(self._start))
        self._start.clear()
        return id_


def _first_event(events: bytes) -> bytes:
    return re.split(rb"\r\n\r\n|\n\n|\r\r", events, maxsplit=1)[0]

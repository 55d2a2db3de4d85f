"""Server-sent events, cut where they end, so that an error event may follow wherever one breaks."""

from typing import TYPE_CHECKING

from keyportal.asgi_types import Headers

if TYPE_CHECKING:
    from keyportal.gateway.relay import Parts

EVENT_STREAM = b"text/event-stream"
LARGEST_EVENT = 1024 * 1024  # Bytes; nothing larger is held back for its end.
ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


def is_event_stream(headers: Headers) -> bool:
    return any(
        name == b"content-type" and value.lower().startswith(EVENT_STREAM)
        for name, value in headers
    )


class WholeEvents:
    """The same bytes, cut between events.

    Only the beginning of an event that straddles two parts is held back, until the rest comes.
    """

    __slots__ = ("_held", "_parts")

    def __init__(self, parts: "Parts") -> None:
        self._parts = parts
        self._held = b""

    async def next(self) -> bytes:
        """One event or several; at last whatever there is, and then nothing."""
        while part := await self._parts.next():
            held = self._held + part
            end = len(held) if len(held) > LARGEST_EVENT else _last_boundary(held)
            self._held = held[end:]
            if end:
                return held[:end]
        rest, self._held = self._held, b""
        return rest

    def close(self) -> None:
        self._parts.close()


def _last_boundary(data: bytes) -> int:
    """Where the last whole event in `data` ends; 0 when none does."""
    return max(_end_of_last(end, data) for end in ENDS)


def _end_of_last(mark: bytes, data: bytes) -> int:
    found = data.rfind(mark)
    return found + len(mark) if found >= 0 else 0

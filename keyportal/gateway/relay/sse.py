"""Server-sent events, cut where they end, so that an error event may follow wherever one breaks."""

from keyportal.gateway.relay.answer import BodyStream
from keyportal.http.types import Headers

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

    def __init__(self, parts: BodyStream) -> None:
        self._parts = parts
        self._held = bytearray()

    async def next(self) -> bytes:
        """One event or several; at last whatever there is, and then nothing."""
        held = self._held
        while part := await self._parts.next():
            # An end may straddle what was looked through before and what comes now.
            unseen = max(len(held) - len(max(ENDS, key=len)), 0)
            held += part
            end = len(held) if len(held) > LARGEST_EVENT else _last_boundary(held, unseen)
            if end:
                return self._take(end)
        return self._take(len(held))

    def _take(self, end: int) -> bytes:
        taken = bytes(self._held[:end])
        del self._held[:end]
        return taken

    def close(self) -> None:
        self._parts.close()


def _last_boundary(data: bytearray, start: int) -> int:
    """Where the last whole event in `data` ends, looked for from `start` on; 0 when none does."""
    return max(_end_of_last(end, data, start) for end in ENDS)


def _end_of_last(mark: bytes, data: bytearray, start: int) -> int:
    found = data.rfind(mark, start)
    return found + len(mark) if found >= 0 else 0

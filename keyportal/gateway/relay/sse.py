"""Server-sent events: a stream cut between events, so that an error event can be its last one."""

from keyportal.gateway.relay.answer import BodyStream
from keyportal.http.types import Headers

EVENT_STREAM = b"text/event-stream"
MAX_EVENT_BYTES = 1024 * 1024  # A larger event is passed on before its end has arrived.
EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


def is_event_stream(headers: Headers) -> bool:
    return any(
        name == b"content-type" and value.lower().startswith(EVENT_STREAM)
        for name, value in headers
    )


class CompleteEvents:
    """The same bytes as `stream`, in chunks that end where an event ends.

    Only the beginning of an incomplete event is buffered, until the rest arrives.
    """

    __slots__ = ("_buffer", "_stream")

    def __init__(self, stream: BodyStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next_chunk(self) -> bytes:
        """One or several complete events; after the last one whatever is left, then nothing."""
        buffer = self._buffer
        while chunk := await self._stream.next_chunk():
            # An event's end may straddle the bytes that were searched before and the new ones.
            start = max(len(buffer) - len(max(EVENT_ENDS, key=len)), 0)
            buffer += chunk
            end = len(buffer) if len(buffer) > MAX_EVENT_BYTES else _end_of_events(buffer, start)
            if end:
                return self._take(end)
        return self._take(len(buffer))

    def _take(self, end: int) -> bytes:
        events = bytes(self._buffer[:end])
        del self._buffer[:end]
        return events

    def close(self) -> None:
        self._stream.close()


def _end_of_events(data: bytearray, start: int) -> int:
    """The position after the last complete event in `data`, searched from `start`; 0 for none."""
    return max(_position_after(end, data, start) for end in EVENT_ENDS)


def _position_after(end: bytes, data: bytearray, start: int) -> int:
    position = data.rfind(end, start)
    return position + len(end) if position >= 0 else 0

"""Server-sent events: a stream cut between events, so that an error event can be its last one, and
comments while it is silent."""

import time
from collections.abc import Callable

from keyportal.gateway.relay.answer import BodyStream
from keyportal.http.types import Headers, Send

EVENT_STREAM = b"text/event-stream"
MAX_EVENT_BYTES = 1024 * 1024  # A larger event is passed on before its end has arrived.
# Proxies close a connection on which nothing comes for a minute or two. Clients ignore a comment.
COMMENT = b": keep-alive\n\n"
EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
MAX_END_BYTES = max(map(len, EVENT_ENDS))


def is_event_stream(headers: Headers) -> bool:
    for name, value in headers:
        if name == b"content-type" and value.lower().startswith(EVENT_STREAM):
            return True
    return False


class CompleteEvents:
    """The same bytes as `stream`, in chunks that end where an event ends.

    Only the beginning of an incomplete event is buffered, until the rest arrives.
    """

    __slots__ = ("_buffer", "_stream", "is_inside_event")

    def __init__(self, stream: BodyStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self.is_inside_event = False
        """Whether the last chunk ended inside an event, which was too large to be buffered."""

    async def next_chunk(self) -> bytes:
        """One or several complete events; after the last one whatever is left, then nothing."""
        buffer = self._buffer
        while chunk := await self._stream.next_chunk():
            # An event's end may straddle the bytes that were searched before and the new ones.
            start = max(len(buffer) - MAX_END_BYTES, 0)
            buffer += chunk
            end = end_of_events(buffer, start)
            if end:
                self.is_inside_event = False
            elif len(buffer) > MAX_EVENT_BYTES:
                self.is_inside_event = True
                end = len(buffer) - MAX_END_BYTES  # The end of the event is not cut in two.
            if end:
                return self._take(end)
        return self._take(len(buffer))

    def _take(self, end: int) -> bytes:
        events = bytes(self._buffer[:end])
        del self._buffer[:end]
        return events

    def close(self) -> None:
        self._stream.close()


class KeepAlive:
    """Sends a comment to the caller when nothing was sent for some seconds."""

    __slots__ = ("_events", "_is_all_sent", "_send", "sent_at")

    def __init__(self, events: CompleteEvents, send: Send, is_all_sent: Callable[[], bool]) -> None:
        """`is_all_sent` says whether the network has taken all bytes for this caller."""
        self._events = events
        self._send = send
        self._is_all_sent = is_all_sent
        self.sent_at = time.monotonic()
        """When the last event or comment was sent."""

    async def send_if_silent(self, before: float) -> None:
        """Send a comment if the last bytes were sent before this time.

        Never inside an event. And never to a caller that does not read, so that no comments pile
        up; that is also why this never waits.
        """
        if self.sent_at < before and not self._events.is_inside_event and self._is_all_sent():
            self.sent_at = time.monotonic()
            await self._send({"type": "http.response.body", "body": COMMENT, "more_body": True})


def end_of_events(data: bytearray, start: int) -> int:
    """The position after the last complete event in `data`, searched from `start`; 0 for none."""
    return max(_position_after(end, data, start) for end in EVENT_ENDS)


def _position_after(end: bytes, data: bytearray, start: int) -> int:
    position = data.rfind(end, start)
    return position + len(end) if position >= 0 else 0

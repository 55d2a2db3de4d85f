"""A cheap model server that streams to a thousand callers.

Usage: `python -m benchmarks.stream_upstream PORT`. Streams are divided into phases of a millisecond
each; one timer writes the chunks of one phase after the other.
"""

import asyncio
import json
import re
import resource
import sys
from typing import cast

import uvloop

from benchmarks.servers import USAGE
from benchmarks.streams import CHUNKS, CHUNKS_PER_SECOND, MARK

PHASES = 1000 // CHUNKS_PER_SECOND  # Milliseconds between two chunks of one stream.


def _event(data: object) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return f"data: {text}\n\n".encode()


def _frame(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _chunk(**more: object) -> dict[str, object]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "instant",
        **more,
    }


_DELTA = {"index": 0, "delta": {"content": f" {MARK.decode()}word"}, "finish_reason": None}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FRAME = _frame(_event(_chunk(choices=[_DELTA])))
REPORT = _frame(_event(_chunk(choices=[], usage=USAGE)))
END = _frame(_event("[DONE]")) + b"0\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"


class Stream(asyncio.Protocol):
    """One connection. It reads a request; then the timer writes the response."""

    def __init__(self, timer: "Timer") -> None:
        self._timer = timer
        self._received = b""
        self.left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.left = 0

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if not separator or len(body) < (int(length[1]) if length else 0):
            return
        self._received = b""
        if not head.startswith(b"POST"):
            self._transport.write(EMPTY)
            return
        # Like vLLM and OpenAI, report usage at the end only if the request asks for it.
        self._end = REPORT + END if b'"include_usage"' in body else END
        self.left = CHUNKS - 1
        self._transport.write(HEAD + FRAME)
        self._timer.join(self)

    def write_next(self) -> None:
        if self.left:
            self.left -= 1
            self._transport.write(FRAME if self.left else FRAME + self._end)


class Timer:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._phases: list[list[Stream]] = [[] for _ in range(PHASES)]
        self._measure_turn = 0
        self._began = loop.time()
        self._tick()

    def join(self, stream: Stream) -> None:
        """Send the stream's next chunk after one whole round of phases."""
        self._phases[(self._measure_turn - 1) % PHASES].append(stream)

    def _tick(self) -> None:
        # If the timer is late, it catches up, so that the rate stays right.
        while self._began + self._measure_turn / 1000 <= self._loop.time():
            phase = self._measure_turn % PHASES
            for stream in self._phases[phase]:
                stream.write_next()
            self._phases[phase] = [stream for stream in self._phases[phase] if stream.left]
            self._measure_turn += 1
        self._loop.call_at(self._began + self._measure_turn / 1000, self._tick)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    timer = Timer(loop)
    server = await loop.create_server(lambda: Stream(timer), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    uvloop.run(serve(int(sys.argv[1])))

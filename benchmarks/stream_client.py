"""Reads many streams at once and prints a `Reading`.

Usage: `python -m benchmarks.stream_client PORT KEY MODEL STREAMS`.
"""

import asyncio
import json
import resource
import sys
import time
from typing import cast

import uvloop

from benchmarks.streams import CHUNKS, CHUNKS_PER_SECOND, MARK, Reading

END = b"\r\n0\r\n\r\n"
TIMEOUT_SECONDS = 30.0 + 2 * CHUNKS / CHUNKS_PER_SECOND


class Stream(asyncio.Protocol):
    """One call. It counts the chunks in the response and does not parse it."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._tail = b""
        self.chunks = 0
        self.seconds = 0.0
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.chunks += data.count(MARK)
        self._tail = (self._tail + data)[-len(END) :]
        if self._tail == END:
            self.seconds = time.perf_counter() - self._began
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def read(port: int, request: bytes, streams: int) -> Reading:
    loop = asyncio.get_running_loop()
    began = time.process_time(), time.perf_counter()
    calls = []
    for _ in range(streams):
        _, call = await loop.create_connection(lambda: Stream(request), "127.0.0.1", port)
        calls.append(call)
        await asyncio.sleep(0.001)
    await asyncio.wait([call.over for call in calls], timeout=TIMEOUT_SECONDS)
    return Reading(
        chunks=sum(call.chunks for call in calls),
        seconds=sorted(call.seconds for call in calls if call.seconds),
        busy=(time.process_time() - began[0]) / (time.perf_counter() - began[1]),
    )


def request(key: str, model: str) -> bytes:
    message = {"role": "user", "content": "Write a long story."}
    body = json.dumps({"model": model, "stream": True, "messages": [message]}).encode()
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


if __name__ == "__main__":
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    port, key, model, streams = sys.argv[1:]
    reading = uvloop.run(read(int(port), request(key, model), int(streams)))
    print(json.dumps(reading._asdict()))  # noqa: T201

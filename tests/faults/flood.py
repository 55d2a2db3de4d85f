"""`python -m tests.faults.flood PORT KEY CONNECTIONS BYTES`: send large bodies, again and
again.

They name a model that doesn't exist: so they are read, checked and parsed, and no model server
gets them. A process of its own, so that it takes no time of the load whose throughput is measured.
Prints `ready` when all connections have sent something.
"""

import asyncio
import sys
from contextlib import suppress

CHUNK_BYTES = 256 * 1024


class Flood:
    def __init__(self, port: int, key: str, size: int, count: int) -> None:
        start, end = b'{"model":"none","prompt":"', b'"}'
        self._port = port
        self._head = (
            "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {key}\r\nContent-Length: {size}\r\n\r\n"
        ).encode() + start
        self._text = b"word " * (CHUNK_BYTES // 5)
        self._size, self._end = size - len(start) - len(end), end
        self.missing = count
        """Connections that have sent nothing yet."""
        self.all_begun = asyncio.Event()

    async def run(self) -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            sending = asyncio.create_task(self._send(writer))
            with suppress(OSError):
                await reader.readline()
            sending.cancel()
            writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # It was answered before its end.
            await self._send_all(writer)

    async def _send_all(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self._head)
        self.missing -= 1
        if self.missing == 0:
            self.all_begun.set()
        left = self._size
        while left:
            writer.write(self._text[:left])
            left -= min(left, len(self._text))
            await writer.drain()
        writer.write(self._end)


async def main() -> None:
    port, key, count, size = sys.argv[1:]
    flood = Flood(int(port), key, int(size), int(count))
    async with asyncio.TaskGroup() as group:
        for _ in range(int(count)):
            group.create_task(flood.run())
        await flood.all_begun.wait()
        print("ready", flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())

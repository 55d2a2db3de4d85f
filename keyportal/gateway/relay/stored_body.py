"""A request body that is complete, and waits until a model server has taken it.

It lies in memory or in an unnamed temporary file. The file disappears when it is closed, and also
when the worker is killed.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from io import BytesIO
from tempfile import SpooledTemporaryFile, TemporaryFile
from typing import IO

from keyportal.gateway.errors import TooManyLargeBodies
from keyportal.gateway.http_client.messages import StreamedBody

BLOCK_BYTES = 64 * 1024

logger = logging.getLogger(__name__)


class StoredBody:
    """Written once, and read as often as a model server is tried. Close it when that is over."""

    def __init__(self, file: IO[bytes] | SpooledTemporaryFile[bytes]) -> None:
        # Written and read in the event loop: a block takes 0.05 ms in the system's cache, and a
        # thread for each block would cost more.
        self._file = file
        self._readers = 0
        self._is_closed = False

    @classmethod
    def in_memory(cls) -> "StoredBody":
        return cls(BytesIO())

    @classmethod
    def on_disk(cls) -> "StoredBody":
        """Raises `TooManyLargeBodies` if no file can be made."""
        try:
            return cls(TemporaryFile())
        except OSError as error:
            raise _disk_refusal(error) from None

    @classmethod
    def on_disk_beyond(cls, size: int) -> "StoredBody":
        """In memory up to this size, and on disk if it grows larger."""
        return cls(SpooledTemporaryFile(size))

    def write(self, data: bytes | memoryview) -> None:
        """Raises `TooManyLargeBodies` if the disk is full."""
        try:
            self._file.write(data)
        except OSError as error:
            raise _disk_refusal(error) from None

    def between(self, start: bytes, end: bytes = b"") -> StreamedBody:
        """The body with these bytes before and after it."""
        length = len(start) + self._file.seek(0, os.SEEK_END) + len(end)
        return StreamedBody(Blocks(self, start, end), length, is_repeatable=True)

    def close(self) -> None:
        """A server that answers early still gets all of it."""
        self._is_closed = True
        if not self._readers:
            self._file.close()

    async def blocks(self, start: bytes, end: bytes) -> AsyncIterator[bytes]:
        """The body in blocks, with these bytes before and after it."""
        position = 0
        self._readers += 1
        try:
            yield start
            # Each reader has its own position: a server that failed may still be reading too.
            while block := self._read_at(position):
                yield block
                position += len(block)
                # Let other calls run, however fast the server reads.
                await asyncio.sleep(0)
            if end:
                yield end
        finally:
            self._readers -= 1
            if self._is_closed:
                self.close()

    def _read_at(self, position: int) -> bytes:
        self._file.seek(position)
        return self._file.read(BLOCK_BYTES)


class Blocks:
    """A stored body with bytes around it. Each iteration begins anew."""

    def __init__(self, stored: StoredBody, start: bytes, end: bytes) -> None:
        self._stored = stored
        self._start = start
        self._end = end

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stored.blocks(self._start, self._end)


async def whole(body: bytes | StreamedBody) -> bytes:
    """The body in one piece, which needs memory for it."""
    if isinstance(body, bytes):
        return body
    return b"".join([block async for block in body.chunks])


def _disk_refusal(error: OSError) -> TooManyLargeBodies:
    logger.error("A request body can't be written to disk: %s", error)
    return TooManyLargeBodies()

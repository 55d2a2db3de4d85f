"""A request body that is complete, and waits until a model server has taken it: in memory, or in an
unnamed temporary file.

The file disappears when it is closed, and also when the worker is killed.
"""

import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from tempfile import SpooledTemporaryFile, TemporaryFile
from typing import IO

from keyportal.gateway.errors import DiskFull
from keyportal.gateway.http_client.messages import StreamedBody
from keyportal.http.turns import Pace, Turns

BLOCK_BYTES = 64 * 1024
Piece = bytes | memoryview

logger = logging.getLogger(__name__)


class Readers:
    """The model servers that are still sent a body, and what is done when there are none."""

    def __init__(self) -> None:
        self._count = 0
        self._on_end: Callable[[], None] | None = None

    async def counted(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self._count += 1
        try:
            async for block in blocks:
                yield block
        finally:
            self._count -= 1
            self._end()

    def close(self, on_end: Callable[[], None]) -> None:
        """Call `on_end` as soon as there are none."""
        self._on_end = on_end
        self._end()

    def _end(self) -> None:
        if self._on_end is not None and not self._count:
            self._on_end()


class MemoryBody:
    """Parts of the body as it was received, which are not copied."""

    def __init__(self, pieces: Sequence[Piece], turns: Turns) -> None:
        self._pieces = pieces
        self._turns = turns
        self._readers = Readers()

    def between(self, start: bytes, end: bytes) -> StreamedBody:
        """The body with these bytes before and after it."""
        pieces = (start, *self._pieces, end)
        blocks = Blocks(lambda: self._readers.counted(_blocks(pieces, Pace(self._turns))))
        return StreamedBody(blocks, sum(map(len, pieces)), is_repeatable=True)

    async def to_disk(self) -> "DiskBody":
        """A copy on disk. Raises `DiskFull` if it can't be written."""
        stored = DiskBody(self._turns)
        try:
            async for block in _blocks(self._pieces, Pace(self._turns)):
                stored.write(block)
            stored.complete()
        except BaseException:
            stored.close()
            raise
        return stored

    def close(self, on_free: Callable[[], None] = lambda: None) -> None:
        """Free the memory. A server that answers early still gets all of it: then `on_free` is
        called when it has it.
        """
        self._pieces = ()
        self._readers.close(on_free)


async def _blocks(pieces: Sequence[Piece], pace: Pace) -> AsyncIterator[bytes]:
    for piece in pieces:
        for position in range(0, len(piece), BLOCK_BYTES):
            block = bytes(piece[position : position + BLOCK_BYTES])
            yield block
            await pace.after(len(block))


class DiskBody:
    """Written once, and read as often as a model server is tried. Close it when that is over."""

    def __init__(self, turns: Turns, max_memory: int = 0) -> None:
        """Up to `max_memory` bytes are still in memory."""
        # Written and read in the event loop: a block takes 0.05 ms in the system's cache, and a
        # thread for each block would cost more.
        self._file = _new_file(max_memory)
        self._turns = turns
        self._readers = Readers()

    def write(self, data: bytes) -> None:
        """Raises `DiskFull` if the disk is full."""
        try:
            self._file.write(data)
        except OSError as error:
            raise _refusal(error) from None

    def complete(self) -> None:
        """Write what is still buffered. Raises `DiskFull` if the disk is full."""
        try:
            self._file.flush()
        except OSError as error:
            raise _refusal(error) from None

    def between(self, start: bytes, end: bytes = b"") -> StreamedBody:
        """The body with these bytes before and after it."""
        length = len(start) + self._file.seek(0, os.SEEK_END) + len(end)
        blocks = Blocks(lambda: self._readers.counted(self._blocks(start, end)))
        return StreamedBody(blocks, length, is_repeatable=True)

    def close(self, on_free: Callable[[], None] = lambda: None) -> None:
        """A server that answers early still gets all of it: then `on_free` is called when it has
        it.
        """

        def end() -> None:
            with suppress(OSError):  # It writes what is buffered, and the disk may be full.
                self._file.close()
            on_free()

        self._readers.close(end)

    async def _blocks(self, start: bytes, end: bytes) -> AsyncIterator[bytes]:
        position, pace = 0, Pace(self._turns)
        yield start
        # Each reader has its own position: a server that failed may still be reading too.
        while block := self._read_at(position):
            yield block
            position += len(block)
            await pace.after(len(block))
        if end:
            yield end

    def _read_at(self, position: int) -> bytes:
        self._file.seek(position)
        return self._file.read(BLOCK_BYTES)


class Blocks:
    """An iterable that begins anew each time."""

    def __init__(self, begin: Callable[[], AsyncIterator[bytes]]) -> None:
        self._begin = begin

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._begin()


async def whole(body: bytes | StreamedBody) -> bytes:
    """The body in one piece, which needs memory for it."""
    if isinstance(body, bytes):
        return body
    return b"".join([block async for block in body.chunks])


def _new_file(max_memory: int) -> IO[bytes] | SpooledTemporaryFile[bytes]:
    try:
        return SpooledTemporaryFile(max_memory) if max_memory else TemporaryFile()
    except OSError as error:
        raise _refusal(error) from None


def _refusal(error: OSError) -> DiskFull:
    logger.error("A request body can't be written to disk: %s", error)
    return DiskFull()

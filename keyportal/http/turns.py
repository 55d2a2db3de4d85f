"""Turns for large bodies, so that they delay no other request for long."""

import asyncio

# A body of this size costs 10 to 20 µs to read, to check or to send, and a turn of the event loop
# without other work some microseconds.
TURN_BYTES = 32 * 1024


class Turns:
    """Large bodies go on one after the other, and all other work comes between. One per worker.

    Attack: a client sends large bodies on hundreds of connections. If each of them had a part read
    in each turn of the event loop, this would take nearly all of its time.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()  # First come, first served.

    async def take(self, count: int) -> None:
        """Let all other work go on for so many turns of the event loop."""
        async with self._lock:
            for _ in range(count):
                await asyncio.sleep(0)


class Pace:
    """One body, which takes a turn after each TURN_BYTES."""

    __slots__ = ("_bytes", "_turns")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._bytes = 0

    async def after(self, size: int) -> None:
        """Call this after each part."""
        count, self._bytes = divmod(self._bytes + size, TURN_BYTES)
        if count:
            await self._turns.take(count)

"""Turns for large bodies, so that they delay no other request for long."""

import asyncio
from weakref import WeakValueDictionary

# A body of this size costs 10 to 20 µs to read, to check or to send.
TURN_BYTES = 32 * 1024
# After a turn, large bodies pause for ten times what it cost: all of them together are read,
# checked or sent at 150 MiB/s. Measured with 200 connections of one key: another one keeps 80 % of
# its calls, but less than half of them with half the pause. So long as the event loop never rests,
# other threads, such as that of admission, wait up to 5 ms for the interpreter's lock.
PAUSE_SECONDS = 0.0002
# A shorter pause costs more than it is worth; timers are exact to a millisecond.
LEAST_PAUSE_SECONDS = 0.0005
# So many turns of one body come together: to wait for each of them costs more.
MAX_TURNS = 8

Owner = tuple[str, ...]
"""Whose body it is: its team and its key."""


class Schedule:
    """Of each key only one body waits among those of its team, and of each team only one among all.

    So all keys with large bodies get the same number of turns, however many bodies each has.
    """

    def __init__(self) -> None:
        # First come, first served. A lock is forgotten when nothing waits for it.
        self._locks: WeakValueDictionary[Owner, asyncio.Lock] = WeakValueDictionary()
        self._debt = 0.0
        """Seconds of pauses that were not made yet; below zero if one was too long."""

    async def take(self, owner: Owner, count: int) -> None:
        lock = self._locks.get(owner)
        if lock is None:
            lock = self._locks[owner] = asyncio.Lock()
        async with lock:
            if owner:
                await self.take(owner[:-1], count)
            else:
                await self._pass(count)

    async def _pass(self, count: int) -> None:
        self._debt += count * PAUSE_SECONDS
        if self._debt < LEAST_PAUSE_SECONDS:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(self._debt)
        self._debt = max(self._debt - (loop.time() - began), -LEAST_PAUSE_SECONDS)


class Turns:
    """Large bodies go on one after the other, and all other work comes between. One per worker.

    Attack: a client sends large bodies on hundreds of connections. If each of them had a part read
    in each turn of the event loop, this would take nearly all of its time. And if they never
    paused, other threads of the worker, the database and other workers would wait for it.
    """

    __slots__ = ("_owner", "_schedule")

    def __init__(self, schedule: Schedule | None = None, owner: Owner = ()) -> None:
        self._schedule = schedule or Schedule()
        self._owner = owner

    def of(self, *owner: str) -> "Turns":
        """Those of one team and key."""
        return Turns(self._schedule, owner)

    async def take(self, count: int) -> None:
        """Let all other work go on for so many turns of the event loop."""
        while count > 0:
            await self._schedule.take(self._owner, min(count, MAX_TURNS))
            count -= MAX_TURNS


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

"""The memory for request bodies in one worker, and a fair part of it for each key and team. The
room on disk for uploads, and for bodies that have no memory, is shared in the same way.

Attack: a key sends many large bodies at once. They would use up the memory of the worker, and each
turn of the event loop would go by reading them. So a large body is read only when its key, its
team and the worker have room for all of it. Until then it waits in the network, and its sender
with it. Small bodies are not counted.

All that a body needs is taken at once, so two bodies can't wait for each other. Only a body whose
length is not known takes more while it arrives; it goes before those that have nothing yet, and
gives up after WAIT_SECONDS like all others.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from django.conf import settings

from keyportal.gateway.errors import GatewayError, SlowBody, TooManyLargeBodies

WAIT_SECONDS = 10.0
CHECK_SECONDS = 1.0
# Connections whose body waits. Each has up to 320 KiB in the server's buffers.
MAX_WAITING = 1000
# What a team and a key may have of the memory, and of the places to wait.
TEAM_PART = 0.5
KEY_PART = 0.25
# While others wait, a body that arrives more slowly than this is ended. Attack: a few bodies, sent
# byte by byte with keys of several teams, hold all memory.
GRACE_SECONDS = 2.0
BYTES_PER_SECOND = 1024 * 1024


class Part(NamedTuple):
    """Whose part of the memory: the worker's, a team's or a key's."""

    name: str
    share: float


WORKER = Part("", 1.0)


class Reservation:
    """The memory or disk space of one body. Release it when the body no longer takes it."""

    __slots__ = ("_budget", "began", "due_at", "end", "key", "parts", "size")

    def __init__(
        self, budget: "BodyBudget", key: str, team: str, end: Callable[[GatewayError], None]
    ) -> None:
        """`end` ends the call while its body arrives."""
        self._budget = budget
        self.key = key
        self.end = end
        self.parts = (WORKER, Part(f"team {team}", TEAM_PART), Part(f"key {key}", KEY_PART))
        self.size = 0
        self.began = time.monotonic()
        self.due_at = 0.0
        """When all of the body should have arrived, on the same clock."""

    async def grow(self, size: int) -> None:
        """Return when the body may have this size. Raises `TooManyLargeBodies`."""
        await self._budget.reserve(self, size)

    def settle(self, size: int) -> None:
        """The body has arrived completely, and has this size."""
        self._budget.shrink(self, size)

    def may_stay(self) -> bool:
        """Whether the body may stay in memory until it is sent: the largest one still has room."""
        return self._budget.has_room(self, settings.MAX_BODY_BYTES)

    def release(self) -> None:
        """Give all of it back; more than once does no harm."""
        self._budget.shrink(self, 0)


class Waiter(NamedTuple):
    """A reservation that waits until it may have this size."""

    reservation: Reservation
    size: int
    granted: asyncio.Future[None]


class BodyBudget:
    """One per worker. It runs in its event loop."""

    def __init__(self, size: int) -> None:
        """`size` is in bytes."""
        self._size = size
        self._held: Counter[Part] = Counter()
        self._waiting: dict[str, deque[Waiter]] = {}
        """By key; the keys take turns."""
        self._waiting_in: Counter[Part] = Counter()
        self._arriving: set[Reservation] = set()

    @property
    def held(self) -> int:
        """Bytes that are reserved now."""
        return self._held[WORKER]

    @property
    def waiting(self) -> int:
        return self._waiting_in[WORKER]

    async def reserve(self, reservation: Reservation, size: int) -> None:
        """Return when it may have this size. The caller releases it, also after an error."""
        is_next = reservation.size > 0 or reservation.key not in self._waiting
        if is_next and self.has_room(reservation, size - reservation.size):
            self._grant(reservation, size)
        else:
            await self._wait(reservation, size)

    def has_room(self, reservation: Reservation, more: int) -> bool:
        return self._full_part(reservation, more) is None

    def shrink(self, reservation: Reservation, size: int) -> None:
        self._arriving.discard(reservation)
        if size < reservation.size:
            self._add(reservation, size - reservation.size)
            self._grant_waiting()

    def _full_part(self, reservation: Reservation, more: int) -> Part | None:
        """The part without room for so many more bytes. One body has room whatever its size."""
        for part in reservation.parts:
            others = self._held[part] - reservation.size
            if others and others + reservation.size + more > part.share * self._size:
                return part
        return None

    def _grant(self, reservation: Reservation, size: int) -> None:
        self._add(reservation, size - reservation.size)
        reservation.due_at = reservation.began + GRACE_SECONDS + size / BYTES_PER_SECOND
        self._arriving.add(reservation)

    def _add(self, reservation: Reservation, size: int) -> None:
        reservation.size += size
        _count(self._held, reservation, size)

    async def _wait(self, reservation: Reservation, size: int) -> None:
        for part in reservation.parts:
            if self._waiting_in[part] >= part.share * MAX_WAITING:
                raise TooManyLargeBodies
        waiter = Waiter(reservation, size, asyncio.get_running_loop().create_future())
        self._enqueue(waiter)
        give_up_at = time.monotonic() + WAIT_SECONDS
        try:
            while not waiter.granted.done():
                if time.monotonic() > give_up_at:
                    raise TooManyLargeBodies
                self._end_slow_bodies(waiter)
                await asyncio.wait({waiter.granted}, timeout=CHECK_SECONDS)
        finally:
            if not waiter.granted.done():
                self._dequeue(waiter)
                self._grant_waiting()  # A smaller one behind it may have room.

    def _enqueue(self, waiter: Waiter) -> None:
        queue = self._waiting.setdefault(waiter.reservation.key, deque())
        if waiter.reservation.size:
            queue.appendleft(waiter)
        else:
            queue.append(waiter)
        _count(self._waiting_in, waiter.reservation, 1)

    def _dequeue(self, waiter: Waiter) -> None:
        queue = self._waiting[waiter.reservation.key]
        queue.remove(waiter)
        if not queue:
            del self._waiting[waiter.reservation.key]
        _count(self._waiting_in, waiter.reservation, -1)

    def _grant_waiting(self) -> None:
        """Grant what has room now: of each key the first ones, and the keys by turns."""
        for key in tuple(self._waiting):
            while queue := self._waiting.get(key):
                waiter = queue[0]
                reservation = waiter.reservation
                if not self.has_room(reservation, waiter.size - reservation.size):
                    break
                self._dequeue(waiter)
                if reservation.size == 0:
                    reservation.began = time.monotonic()
                self._grant(reservation, waiter.size)
                waiter.granted.set_result(None)
                if key in self._waiting:
                    self._waiting[key] = self._waiting.pop(key)  # Now it is the last one.

    def _end_slow_bodies(self, waiter: Waiter) -> None:
        """End bodies of other keys that should have arrived, if they keep this one waiting."""
        reservation = waiter.reservation
        full = self._full_part(reservation, waiter.size - reservation.size)
        now = time.monotonic()
        for other in tuple(self._arriving):
            if full in other.parts and other.key != reservation.key and other.due_at < now:
                other.end(SlowBody())


def _count(counter: Counter[Part], reservation: Reservation, number: int) -> None:
    """Add to all parts of the reservation. Those that are empty are forgotten."""
    for part in reservation.parts:
        counter[part] += number
        if not counter[part]:
            del counter[part]

"""Clients that ask without a pause, while something is taken away from their key."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter

from tests.support.server import Reply, Server, wait_until


class Shooters:
    """They note when each request began and how it ended."""

    def __init__(self, server: Server, request: bytes, connections: int = 8) -> None:
        """`request` is one whole request, sent again and again as it is."""
        self._server = server
        self._request = request
        self._over = threading.Event()
        self.shots: list[tuple[float, Reply]] = []
        """Begin in monotonic seconds, and the answer."""
        self.threads = [threading.Thread(target=self._shoot) for _ in range(connections)]

    def _shoot(self) -> None:
        with self._server.connect() as connection:
            while not self._over.is_set():
                began = time.monotonic()
                connection.send(self._request)
                self.shots.append((began, connection.reply()))

    def since(self, moment: float) -> list[int]:
        """The statuses of the requests that began later."""
        return [reply.status for began, reply in tuple(self.shots) if began > moment]

    @property
    def last(self) -> Reply:
        """What answered the request that began last: one that began before a change may well be
        answered after all the others."""
        return max(tuple(self.shots), key=itemgetter(0))[1]

    @contextmanager
    def firing(self) -> Iterator[None]:
        for thread in self.threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self.threads:
                thread.join()

    def around(self, act: Callable[[], object], *, before: int, after: int) -> list[int]:
        """Do this when so many have been answered; the statuses of what began after its return,
        when there are enough of those."""
        with self.firing():
            wait_until(lambda: len(self.shots) > before)
            act()
            done = time.monotonic()
            wait_until(lambda: len(self.since(done)) >= after, 90)
        return self.since(done)

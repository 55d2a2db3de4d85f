"""Clients that send requests without a pause, while a test changes something."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter

from tests.support.server import Reply, Server, wait_until


class LoadGenerator:
    """Records the start of each request and its reply."""

    def __init__(self, server: Server, request: bytes, connections: int = 8) -> None:
        """`request` is one complete request in bytes, sent repeatedly on each connection."""
        self._server = server
        self._request = request
        self._stopped = threading.Event()
        self.results: list[tuple[float, Reply]] = []
        """Start in monotonic seconds, and the reply."""
        self.threads = [threading.Thread(target=self._send_requests) for _ in range(connections)]

    def _send_requests(self) -> None:
        with self._server.connect() as connection:
            while not self._stopped.is_set():
                started = time.monotonic()
                connection.send(self._request)
                self.results.append((started, connection.reply()))

    def statuses_since(self, moment: float) -> list[int]:
        """The statuses of the requests that started after this moment."""
        return [reply.status for started, reply in tuple(self.results) if started > moment]

    @property
    def last_reply(self) -> Reply:
        """The reply to the request that started last.

        A request that started before a change may receive its reply after all others.
        """
        return max(tuple(self.results), key=itemgetter(0))[1]

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self.threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in self.threads:
                thread.join()

    def during(self, action: Callable[[], object], *, before: int, after: int) -> list[int]:
        """Run the action after `before` replies, then wait for `after` more requests.

        Returns the statuses of the requests that started after the action returned.
        """
        with self.running():
            wait_until(lambda: len(self.results) > before)
            action()
            done = time.monotonic()
            wait_until(lambda: len(self.statuses_since(done)) >= after, 90)
        return self.statuses_since(done)

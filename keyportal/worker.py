"""Gunicorn's ASGI worker, made to stop without losing anybody, and to keep no idle connection.

As it comes, one idle keep-alive connection holds a graceful stop for its whole time-out, after
which the worker is killed; Ctrl-C skips the graceful stop altogether; and the timer that should
close idle connections is cancelled as soon as it is armed.
"""

import asyncio
import resource
from http import HTTPStatus
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

END_MARGIN = 2.0  # Seconds before the master kills: the time to say goodbye to what still runs.
IDLE_SECONDS = 75.0


class Protocol(ASGIProtocol):  # type: ignore[misc]  # untyped base
    """Knows whether it is idle: between requests, or before the first one's headers are whole."""

    idle_since: float | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.idle_since = self.worker.loop.time()
        self.worker.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        super().connection_lost(exc)

    def close_if_idle_since(self, moment: float) -> None:
        if self.idle_since is not None and self.idle_since <= moment:
            self._close_transport()

    async def _handle_http_request(self, *request: Any) -> Any:
        self.idle_since = None
        try:
            return await super()._handle_http_request(*request)
        finally:
            self.idle_since = self.worker.loop.time()

    def _get_reason_phrase(self, status: int) -> str:
        # Gunicorn's own table knows no 415 or 426.
        try:
            return HTTPStatus(status).phrase
        except ValueError:
            return "Unknown"


# The worker has no hook for its protocol class, but looks it up here for each connection.
gasgi.ASGIProtocol = Protocol


class DrainingWorker(gasgi.ASGIWorker):  # type: ignore[misc]  # untyped base
    """On TERM, and on INT alike, closes idle connections and lets calls finish."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections: set[Protocol] = set()

    def init_process(self) -> None:
        # A call needs two descriptors; the soft limit of 1024 that shells hand out is soon full.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        import signal

        # Ctrl-C reaches the whole process group. The master decides what it means: the first
        # one lets calls finish, a second one sends QUIT.
        self.loop.add_signal_handler(signal.SIGINT, self.handle_exit_signal)

    def handle_exit_signal(self) -> None:
        super().handle_exit_signal()
        self.asgi.gateway.drain()
        self._close_idle_since(self.loop.time())

    def notify(self) -> None:
        """Called every second while serving."""
        super().notify()
        self._close_idle_since(self.loop.time() - IDLE_SECONDS)

    async def _shutdown(self) -> None:
        self.asgi.gateway.drain()
        self._close_idle_since(self.loop.time())
        self.loop.call_later(
            max(self.cfg.graceful_timeout - END_MARGIN, 0), self.asgi.gateway.end_calls
        )
        beat = self.loop.create_task(self._beat())
        await super()._shutdown()
        beat.cancel()

    async def _beat(self) -> None:
        # The master kills a worker that is silent for its time-out, and a drain may take longer.
        while True:
            super().notify()
            await asyncio.sleep(1)

    def _close_idle_since(self, moment: float) -> None:
        for connection in tuple(self.connections):
            connection.close_if_idle_since(moment)

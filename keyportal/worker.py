"""Gunicorn's ASGI worker, made to lose nobody and to keep no idle connection.

As it comes, one idle keep-alive connection holds a graceful stop for its whole time-out, after
which the worker is killed; and Ctrl-C skips the graceful stop altogether.
"""

import asyncio
import resource
import signal
from typing import Any

from gunicorn.workers import gasgi

from keyportal.protocol import Protocol

END_MARGIN = 2.0  # Seconds before the master kills: the time to say goodbye to what still runs.
IDLE_SECONDS = 75.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

# The worker has no hook for its protocol class, but looks it up here for each connection.
gasgi.ASGIProtocol = Protocol


class ReadOnce:
    """Gunicorn's settings, each looked up only once: it asks for six of them in each request, and
    a look-up costs half a microsecond. They don't change while a worker lives."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._settings, name)
        setattr(self, name, value)
        return value


class DrainingWorker(gasgi.ASGIWorker):  # type: ignore[misc]  # untyped base
    """On TERM, and on INT alike, closes idle connections and lets calls finish."""

    cfg: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cfg = ReadOnce(self.cfg)
        self.connections: set[Protocol] = set()

    def init_process(self) -> None:
        # A call needs two descriptors; the soft limit of 1024 that shells hand out is soon full.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
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

    async def _serve(self) -> None:
        # Held back since the fork, see `gunicorn_conf`: now the handlers are ours, and they run.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        await super()._serve()

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
            # One that was being accepted when the stop began is found here.
            self._close_idle_since(self.loop.time())
            await asyncio.sleep(1)

    def _close_idle_since(self, moment: float) -> None:
        for connection in tuple(self.connections):
            connection.close_if_idle_since(moment)

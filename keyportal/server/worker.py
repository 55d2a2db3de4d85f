"""Gunicorn's worker: uvicorn's, with idle connections that end and a stop that loses no call."""

import asyncio
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from uvicorn import Server
from uvicorn_worker import UvicornWorker

from keyportal.server.protocol import Protocol

END_MARGIN = 2.0  # Seconds before the master kills: the time to end the calls that still run.
LAST_MARGIN = 1.0  # And to write down what they used, whoever still holds a connection.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class DrainingServer(Server):
    """Ends the calls that outlive a stop, and tells the master meanwhile that the worker lives.

    Of uvicorn's server this uses what has a public name: `capture_signals`, `shutdown`,
    `should_exit` and `server_state.connections`.
    """

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.config)
        self._worker = worker

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """TERM drains, and so does INT: Ctrl-C reaches the whole process group, and what a second
        one means the master decides. It sends QUIT, which stops at once.

        uvicorn's own would raise the signal again after the stop, and so end in an error.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loop.add_signal_handler(signal.SIGINT, self._drain)
        loop.add_signal_handler(signal.SIGQUIT, os._exit, 0)
        # Blocked since the fork, see `gunicorn_conf`: now the handlers are there, and they run.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        yield

    def _drain(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: Any = None) -> None:
        loop = asyncio.get_running_loop()
        grace = max(self._worker.cfg.graceful_timeout - END_MARGIN, 0)
        end = loop.call_later(grace, self._worker.wsgi.gateway.end_calls)
        beat = asyncio.create_task(self._beat())
        await super().shutdown(sockets)
        end.cancel()
        beat.cancel()

    async def _beat(self) -> None:
        # The master kills a worker that is silent for its time-out, and a drain may take longer.
        while True:
            self._worker.notify()
            # One that was being accepted when the stop began is closed here.
            for connection in tuple(self.server_state.connections):
                connection.shutdown()
            await asyncio.sleep(1)


class Worker(UvicornWorker):  # type: ignore[misc]  # untyped base
    CONFIG_KWARGS = {
        "http": Protocol,
        "interface": "asgi3",
        "lifespan": "on",
        "loop": "uvloop",
        # `keyportal.http.trusted_proxies` alone decides whose X-Forwarded-* headers count.
        "proxy_headers": False,
        "server_header": False,
        "ws": "none",
    }

    def init_process(self) -> None:
        # A call needs two descriptors; the soft limit of 1024 that shells hand out is soon full.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        super().init_process()

    def run(self) -> None:
        self.config.app = self.wsgi
        self.config.timeout_graceful_shutdown = max(self.cfg.graceful_timeout - LAST_MARGIN, 0.1)
        with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
            runner.run(DrainingServer(self).serve(sockets=self.sockets))

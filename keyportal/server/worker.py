"""The gunicorn worker: uvicorn's, with a graceful stop in which no call is lost."""

import asyncio
import os
import resource
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from django.conf import settings
from uvicorn import Server
from uvicorn_worker import UvicornWorker

from keyportal.server import listener
from keyportal.server.protocol import Protocol

# Seconds before the master kills the worker: when the calls that still run are ended.
END_CALLS_MARGIN = 2.0
# And when the connections that are still open are closed, so that usage can be written.
SHUTDOWN_MARGIN = 1.0
# Seconds between the last handshake and the end of listening. Then what was sent has arrived.
LAST_HANDSHAKES = 0.1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class DrainingServer(Server):
    """Ends the calls that still run near the end of the graceful time-out, and sends heartbeats to
    the master until then.

    It uses only public names of uvicorn's server: `capture_signals`, `shutdown`, `should_exit`,
    `servers`, `server_state.connections` and `server_state.default_headers`.
    """

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.config)
        self._worker = worker

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """TERM and INT drain; QUIT stops at once.

        Ctrl-C sends INT to the whole process group. On the second one, the master sends QUIT.
        uvicorn's own method raises the signal again after the stop, which ends in an error.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loop.add_signal_handler(signal.SIGINT, self._drain)
        loop.add_signal_handler(signal.SIGQUIT, os._exit, 0)
        # They were blocked at the fork, see `gunicorn_conf`. Now they have handlers that run.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        yield

    def _drain(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: Any = None) -> None:
        loop = asyncio.get_running_loop()
        delay = max(self._worker.cfg.graceful_timeout - END_CALLS_MARGIN, 0)
        timer = loop.call_later(delay, self._worker.wsgi.gateway.end_calls)
        heartbeat = asyncio.create_task(self._send_heartbeats())
        await self._drain_connections(sockets or [])
        closing = asyncio.create_task(self._close_connections())
        await super().shutdown(sockets)
        for task in (closing, heartbeat, timer):
            task.cancel()

    async def _drain_connections(self, sockets: Sequence[socket.socket]) -> None:
        """Serve for DRAIN_SECONDS more, and let each response close its connection.

        A worker that is replaced accepts no more connections in this time: its successor does.
        """
        # systemd sends TERM to the master and the workers at once, so the master may need a moment.
        await asyncio.sleep(LAST_HANDSHAKES)
        # Requests that arrive from now on take this list.
        self.server_state.default_headers = [
            *self.server_state.default_headers,
            (b"connection", b"close"),
        ]
        for connection in self._connections():
            connection.close_after_response()
        if listener.is_closing():
            self._worker.wsgi.health.is_draining = True
            await asyncio.sleep(settings.DRAIN_SECONDS)
            listener.stop_handshakes(sockets)
            await asyncio.sleep(LAST_HANDSHAKES)
            return
        for server in self.servers:
            server.close()
        for _ in range(10 * settings.DRAIN_SECONDS):
            if self._connections():
                await asyncio.sleep(0.1)

    def _connections(self) -> tuple[Protocol, ...]:
        return cast("tuple[Protocol, ...]", tuple(self.server_state.connections))

    async def _close_connections(self) -> None:
        """Close connections again and again: also those on which a request was on its way."""
        while True:
            await asyncio.sleep(0.1)
            for connection in self._connections():
                connection.shutdown()

    async def _send_heartbeats(self) -> None:
        # The master kills a worker that is silent for its time-out, and draining may take longer.
        while True:
            self._worker.notify()
            await asyncio.sleep(1)


class Worker(UvicornWorker):  # type: ignore[misc]  # untyped base
    CONFIG_KWARGS = {
        "http": Protocol,
        "interface": "asgi3",
        "lifespan": "on",
        "loop": "uvloop",
        # Only `keyportal.http.trusted_proxies` decides which X-Forwarded-* headers are trusted.
        "proxy_headers": False,
        "server_header": False,
        "ws": "none",
    }

    def init_process(self) -> None:
        # A call needs two file descriptors, and shells usually set a soft limit of 1024.
        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
        super().init_process()

    def run(self) -> None:
        self.config.app = self.wsgi
        self.config.timeout_graceful_shutdown = max(
            self.cfg.graceful_timeout - settings.DRAIN_SECONDS - SHUTDOWN_MARGIN, 0.1
        )
        with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
            runner.run(DrainingServer(self).serve(sockets=self.sockets))

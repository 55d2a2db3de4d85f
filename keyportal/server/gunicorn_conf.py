"""Gunicorn's settings, for `gunicorn -c python:keyportal.server.gunicorn_conf keyportal.asgi`."""

import gc
import os
import signal
from functools import partial
from typing import Any

from keyportal.server.logging import RedactingLogger

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyportal.settings")

from django.conf import settings

from keyportal.server import listener, metrics
from keyportal.server.worker import STOP_SIGNALS

bind = (
    f"[{settings.HOST}]:{settings.PORT}"
    if ":" in settings.HOST
    else f"{settings.HOST}:{settings.PORT}"
)
workers = settings.WEB_CONCURRENCY
worker_class = "keyportal.server.worker.Worker"
preload_app = True
keepalive = 75
graceful_timeout = settings.DRAIN_SECONDS + settings.GRACEFUL_TIMEOUT
# All instances on a machine would share one socket file, and nothing here uses it.
control_socket_disable = True
loglevel = settings.LOG_LEVEL.lower()


logger_class = RedactingLogger


def pre_fork(_server: Any, _worker: Any) -> None:
    """Exclude from garbage collection all objects that exist before the fork.

    They live as long as the process. The collector would examine all of them again and again, and
    writing its marks would copy the memory that workers share. Measured: a tenth of the processor
    time of a call.
    """
    gc.collect()
    gc.freeze()


def post_fork(_server: Any, _worker: Any) -> None:
    # A call makes a few hundred objects and few cycles, so the collector may run less often.
    gc.set_threshold(5_000, 20, 50)


def post_worker_init(worker: Any) -> None:
    metrics.start_worker(worker)


def child_exit(_server: Any, worker: Any) -> None:
    metrics.end_worker(worker.pid)


def on_exit(_server: Any) -> None:
    metrics.remove_files()


def on_starting(server: Any) -> None:
    """Make the first Ctrl-C stop gracefully, like TERM, and the second one at once."""
    metrics.make_folder()
    terminate = server.handle_term

    def handle_term() -> None:
        listener.mark_closing(server)
        terminate()

    server.handle_int = server.handle_term = handle_term
    # A new worker first has the master's signal handlers, which would lose its TERM, and then its
    # own, which do nothing until its event loop runs. So these signals are blocked at the fork, and
    # the worker unblocks them when its handlers work. A new master after a re-exec inherits the
    # blocked signals, so it unblocks them first.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, STOP_SIGNALS),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, STOP_SIGNALS),
    )

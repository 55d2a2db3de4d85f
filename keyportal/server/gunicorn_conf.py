"""Gunicorn's settings, for `gunicorn -c python:keyportal.server.gunicorn_conf keyportal.asgi`."""

import gc
import os
import signal
from functools import partial
from typing import Any

from keyportal.server.logging import RedactingLogger

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyportal.settings")

from django.conf import settings

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
graceful_timeout = settings.GRACEFUL_TIMEOUT
# One file would be shared by all instances on the machine, and nothing here uses it.
control_socket_disable = True
loglevel = settings.LOG_LEVEL.lower()


logger_class = RedactingLogger


def pre_fork(_server: Any, _worker: Any) -> None:
    """What is loaded by now lives as long as the process: nobody needs to look for garbage in it.

    The collector would go through all of it time and again, and its marks would part the memory
    that workers share. Measured: a tenth of a call's processor time.
    """
    gc.collect()
    gc.freeze()


def post_fork(_server: Any, _worker: Any) -> None:
    # A call makes a few hundred objects and few cycles: looking less often finds as many.
    gc.set_threshold(5_000, 20, 50)


def on_starting(server: Any) -> None:
    """Ctrl-C once means what TERM means; twice means now."""
    server.handle_int = server.handle_term
    # A new worker has the master's handlers, which would swallow its TERM, and then handlers of
    # its own that do nothing until its loop runs. So it is born with these held back, and lets
    # them through when it can mind them. A master that another one became starts with none held.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, STOP_SIGNALS),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, STOP_SIGNALS),
    )

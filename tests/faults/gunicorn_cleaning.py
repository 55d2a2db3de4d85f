"""Gunicorn settings of a node that cleans, and looks for lost calls, five times a second."""

from typing import Any

from keyportal.server import gunicorn_conf
from keyportal.server.gunicorn_conf import *  # noqa: F403


def pre_fork(server: Any, worker: Any) -> None:  # type: ignore[no-redef]  # calls the original
    from keyportal.gateway.metering import retention

    retention.PAUSE_SECONDS = 0.2
    gunicorn_conf.pre_fork(server, worker)

"""Gunicorn settings of the shared server: it writes usage and running calls at short intervals."""

from typing import Any

from keyportal.server import gunicorn_conf
from keyportal.server.gunicorn_conf import *  # noqa: F403


def pre_fork(server: Any, worker: Any) -> None:  # type: ignore[no-redef]  # calls the original
    from keyportal.gateway.metering import meter, running_calls
    from keyportal.gateway.metrics import publisher

    meter.FLUSH_SECONDS = 0.1
    running_calls.REPORT_SECONDS = 0.2
    publisher.PUBLISH_SECONDS = 0.5
    gunicorn_conf.pre_fork(server, worker)

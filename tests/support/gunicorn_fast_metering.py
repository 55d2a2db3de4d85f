"""Gunicorn settings of the shared server: it writes usage and running calls at short intervals."""

from typing import Any

from tests.support import gunicorn_patient
from tests.support.gunicorn_patient import *  # noqa: F403


def pre_fork(server: Any, worker: Any) -> None:  # type: ignore[no-redef]  # calls the original
    from keyportal.gateway.metering import meter, running_calls
    from keyportal.gateway.metrics import publisher

    meter.FLUSH_SECONDS = 0.1
    running_calls.REPORT_SECONDS = 0.2
    publisher.PUBLISH_SECONDS = 0.5
    gunicorn_patient.pre_fork(server, worker)

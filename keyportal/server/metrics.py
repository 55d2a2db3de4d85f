"""What gunicorn does for `/metrics`. Without KEYPORTAL_METRICS_PORT, nothing.

gunicorn reads its settings before Django is set up, so this imports no models.
"""

import threading
from typing import Any

from django.conf import settings

from keyportal.gateway.metrics.files import MetricsFolder

_folder: MetricsFolder | None = None  # None: the metrics are off.


def make_folder() -> None:
    """Called in gunicorn's master, before there are workers."""
    global _folder  # noqa: PLW0603 - workers inherit it
    if settings.METRICS_PORT:
        _folder = MetricsFolder()


def start_worker(worker: Any) -> None:
    """Called in each worker when it begins. The thread ends with the process."""
    if _folder is not None:
        from keyportal.server.metrics_page import serve

        worker.wsgi.gateway.metrics_folder = _folder
        threading.Thread(target=serve, args=[_folder], name="metrics", daemon=True).start()


def end_worker(pid: int) -> None:
    """Called in the master when a worker has ended."""
    if _folder is not None:
        _folder.end_worker(pid)


def remove_files() -> None:
    """Called in the master when it ends."""
    if _folder is not None:
        _folder.remove()

"""Gunicorn's settings, for `gunicorn -c python:keyportal.gunicorn_conf keyportal.asgi`."""

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyportal.settings")

from django.conf import settings

bind = (
    f"[{settings.HOST}]:{settings.PORT}"
    if ":" in settings.HOST
    else f"{settings.HOST}:{settings.PORT}"
)
workers = settings.WEB_CONCURRENCY
worker_class = "keyportal.worker.DrainingWorker"
preload_app = True
graceful_timeout = settings.GRACEFUL_TIMEOUT
# Whom X-Forwarded-* may come from is decided by keyportal.proxies; gunicorn trusts nobody.
forwarded_allow_ips = ""
# One file would be shared by all instances on the machine, and nothing here uses it.
control_socket_disable = True
# What ends up as a header name is decided by the parser, not by a proxy's spelling.
limit_request_field_size = 16_384
loglevel = settings.LOG_LEVEL.lower()


def on_starting(server: Any) -> None:
    """Ctrl-C once means what TERM means; twice means now."""
    server.handle_int = server.handle_term

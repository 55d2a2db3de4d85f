"""Gunicorn settings of servers that are patient where a busy machine may need seconds for work of
milliseconds. A verdict that comes late, for example, would be a 503 that no test expects. They hash
passwords, which are not secret here, in no time.
"""

from typing import Any

from django.conf import settings

from keyportal.server import gunicorn_conf
from keyportal.server.gunicorn_conf import *  # noqa: F403
from tests.support.patience import PATIENCE, be_patient

be_patient(settings.DATABASES)


def pre_fork(server: Any, worker: Any) -> None:  # type: ignore[no-redef]  # calls the original
    from django.contrib.auth.hashers import PBKDF2PasswordHasher

    from keyportal.gateway import introspection
    from keyportal.gateway.admission import batcher
    from keyportal.http import requests
    from keyportal.server import health, protocol
    from keyportal.server import worker as module

    PBKDF2PasswordHasher.iterations = 1
    batcher.VERDICT_SECONDS = health.MAX_SECONDS = PATIENCE
    introspection.TIMEOUT_SECONDS = 6.0  # A test waits for its end.
    # So that a worker which is stopped for a while can still end its calls before it is killed.
    module.END_CALLS_MARGIN = 10.0
    # So that a client which is stopped for a while can still read an error.
    requests.DRAIN_SECONDS = protocol.LINGER_SECONDS = 10.0
    gunicorn_conf.pre_fork(server, worker)

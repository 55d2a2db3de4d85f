"""Gunicorn settings of a server that waits at most one second for a request body."""

from keyportal.http import buffering
from keyportal.server.gunicorn_conf import *  # noqa: F403

buffering.FORM_SECONDS = 1.0

"""Gunicorn's settings for a server that waits for no body longer than a test can."""

from keyportal.http import buffering
from keyportal.server.gunicorn_conf import *  # noqa: F403

buffering.FORM_SECONDS = 1.0

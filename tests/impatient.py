"""Gunicorn's settings for a server that waits for no body longer than a test can."""

from keyportal import portal
from keyportal.gunicorn_conf import *  # noqa: F403

portal.FORM_SECONDS = 1.0

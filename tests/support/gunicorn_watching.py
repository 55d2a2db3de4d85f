"""Gunicorn settings of a patient server that watches its statements as the product does."""

from keyportal.database import statement_watch

FIRST_CHECK_SECONDS = statement_watch.FIRST_CHECK_SECONDS

from tests.support.gunicorn_patient import *  # noqa: E402, F403

statement_watch.FIRST_CHECK_SECONDS = FIRST_CHECK_SECONDS

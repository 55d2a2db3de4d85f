"""Outages of PostgreSQL as pages and the management API meet them: logged once at each end."""

import logging
from typing import Any

import psycopg
from django.db import Error, InterfaceError, OperationalError
from django.db.backends.signals import connection_created

RETRY_SECONDS = 5
# Connection exceptions, too many connections, shutdown and recovery, a read-only transaction.
_OUTAGE_STATES = ("08", "53", "57P", "25006")

logger = logging.getLogger(__name__)


def is_outage(error: BaseException | None) -> bool:
    """Whether the database can't be reached or can't be written. A time limit is no outage."""
    cause = error.__cause__ if isinstance(error, Error) else None
    if not isinstance(cause, psycopg.Error):
        return False
    if cause.sqlstate is None:  # It was not the server that reported it.
        return isinstance(error, OperationalError | InterfaceError)
    return cause.sqlstate.startswith(_OUTAGE_STATES)


class OutageLog:
    """One per process."""

    def __init__(self) -> None:
        self._is_down = False

    def begin(self, error: BaseException) -> None:
        """Log the outage that caused this error, if it is the first one."""
        if not self._is_down:
            self._is_down = True
            text = " ".join(str(error).split())
            logger.error("The database is unavailable: %s: %s", type(error).__name__, text)

    def end(self, **_: Any) -> None:
        """Receives Django's signal that a connection is open."""
        if self._is_down:
            self._is_down = False
            logger.warning("The database is available again.")


outage_log = OutageLog()
connection_created.connect(outage_log.end)


class OutageFilter(logging.Filter):
    """Replaces the tracebacks of all requests that meet an outage by one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or not is_outage(error):
            return True
        outage_log.begin(error)
        return False

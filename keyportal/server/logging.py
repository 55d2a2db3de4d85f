"""Logging: keys are cut to their public part, refused pages take one line."""

import logging
from typing import Any

from django.core.exceptions import PermissionDenied
from gunicorn.glogging import Logger

from keyportal.keys.keystring import redact


class PermissionDeniedFilter(logging.Filter):
    """A refused page is an ordinary answer. Where and why is of use, our own call stack is not."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, PermissionDenied):
            record.msg, record.args = "%s: %s", (record.getMessage(), error)
            record.exc_info = None
        return True


class RedactingLogger(Logger):  # type: ignore[misc]  # untyped base
    """Gunicorn keeps a log of its own; at DEBUG it names each path, and a key may stand in one."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(RedactingFormatter(self.error_fmt, self.datefmt))
        for handler in self.access_log.handlers:
            handler.setFormatter(RedactingFormatter(self.access_fmt))


class RedactingFormatter(logging.Formatter):
    """The last line of defence for the logs: nothing is written before `redact` has seen it."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

"""Logging: key strings are redacted, and a refused page takes one line."""

import logging
from typing import Any

from django.core.exceptions import PermissionDenied
from gunicorn.glogging import Logger

from keyportal.keys.keystring import redact


class PermissionDeniedFilter(logging.Filter):
    """Logs a refused page in one line with the reason, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, PermissionDenied):
            record.msg, record.args = "%s: %s", (record.getMessage(), error)
            record.exc_info = None
        return True


class RedactingLogger(Logger):  # type: ignore[misc]  # untyped base
    """Gunicorn's logger, with redaction: at DEBUG it logs paths, which may contain a key string."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(RedactingFormatter(self.error_fmt, self.datefmt))
        for handler in self.access_log.handlers:
            handler.setFormatter(RedactingFormatter(self.access_fmt))


class RedactingFormatter(logging.Formatter):
    """Redacts key strings in every line. The last line of defence for the logs."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

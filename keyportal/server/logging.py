"""Logging: key strings are redacted, and a refused request takes one line."""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost, PermissionDenied, SuspiciousOperation
from gunicorn.glogging import Logger

import keyportal
from keyportal.keys.keystring import redact

MAX_LENGTH = 300
POLLED_PATH = "/oauth/token"
# An invitation also after `next=`, where the slashes are encoded.
_TOKEN = re.compile(
    r"(password/reset/key/(?!done/)|accounts/link/|[/F]invitations(?:/|%2F))[^/\s?&\"']+",
    re.IGNORECASE,
)


class RefusalFilter(logging.Filter):
    """Logs a refused request in one line: why, whose it was and from where, without a traceback.

    Attack: requests with a wrong Host fill the disk with tracebacks.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        message = record.getMessage()
        if isinstance(error, PermissionDenied):
            message = f"{message}: {error}"
        if isinstance(error, DisallowedHost):
            message = message.partition(" You may need")[0]
        if isinstance(error, PermissionDenied | SuspiciousOperation):
            record.exc_info = None
        request = getattr(record, "request", None)
        status = getattr(record, "status_code", 0)
        if request is not None and status == 400 and request.path.endswith(POLLED_PATH):
            return False  # A program that waits for a person gets it every five seconds.
        if request is not None and 400 <= status < 500:
            message = f"{message[:MAX_LENGTH]} ({_sender(request)})"
        record.msg, record.args = message, ()
        return True


def _sender(request: Any) -> str:
    """Such as `bob, 192.0.2.1`. Only a user who is loaded already: logging makes no query."""
    user = getattr(request, "_cached_user", None)
    name = user.get_username() if user is not None else ""
    return f"{name or 'not signed in'}, {request.META.get('REMOTE_ADDR') or 'unknown address'}"


class RedactingLogger(Logger):  # type: ignore[misc]  # untyped base
    """Gunicorn's logger, with redaction: at DEBUG it logs paths, which may contain a key string."""

    def setup(self, cfg: Any) -> None:
        """Called once, before anything else is logged: the first line names the version."""
        super().setup(cfg)
        is_json = settings.LOG_FORMAT == "json"
        for handler in self.error_log.handlers:
            error_lines = RedactingFormatter(self.error_fmt, self.datefmt)
            handler.setFormatter(JSONFormatter() if is_json else error_lines)
        for handler in self.access_log.handlers:
            handler.setFormatter(
                JSONFormatter() if is_json else RedactingFormatter(self.access_fmt)
            )
        self.info("Keyportal %s", keyportal.__version__)


class RedactingFormatter(logging.Formatter):
    """The last line of defence: redacts key strings, and links with a token."""

    def format(self, record: logging.LogRecord) -> str:
        return _redacted(super().format(record))


class JSONFormatter(logging.Formatter):
    """One JSON object a line, with the same redaction. Times are UTC in ISO 8601."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            # Redacted before it is encoded: after "\n" in JSON, a key string begins with "n".
            "message": _redacted(record.getMessage()),
        }
        # The access log has fields of its own. Some are chosen by callers, such as the request id.
        for name, value in getattr(record, "fields", {}).items():
            line[name] = _redacted(value) if isinstance(value, str) else value
        if record.exc_info:
            line["exception"] = _redacted(self.formatException(record.exc_info))
        return json.dumps(line)


def _redacted(text: str) -> str:
    return _TOKEN.sub(r"\1***", redact(text))

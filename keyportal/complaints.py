"""An operator's mistake deserves a sentence, not a traceback; a visitor's does, too."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import OperationalError, ProgrammingError

from keyportal.keys import secret


@contextmanager
def as_one_sentence() -> Iterator[None]:
    """Whatever is wrong with configuration or database ends the process with one line on stderr."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyportal.settings")
    try:
        yield
    except (ImproperlyConfigured, OperationalError, ProgrammingError) as error:
        if "--traceback" in sys.argv:
            raise
        whose = "" if isinstance(error, ImproperlyConfigured) else "The database says: "
        sys.exit(f"keyportal: {whose}{' '.join(str(error).split())}")


def without_keys(text: str) -> str:
    """What an operator is told of what they typed, cut to the public part of each key in it."""
    return secret.redact(text)


def without_pool() -> None:
    """For a command, which has one connection: a pool would only hide why it failed."""
    from django.conf import settings

    settings.DATABASES["default"].get("OPTIONS", {}).pop("pool", None)


class RefusalsInOneLine(logging.Filter):
    """A refused page is an ordinary answer. Where and why is of use, our own call stack is not."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, PermissionDenied):
            record.msg, record.args = "%s: %s", (record.getMessage(), error)
            record.exc_info = None
        return True

"""Start-up errors: an operator's mistake is reported in one line, without a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError

# What SQLite says of a file that is damaged, or that never was a database.
CORRUPT = {"file is not a database", "database disk image is malformed"}


@contextmanager
def startup_errors() -> Iterator[None]:
    """End the process with one line on stderr for an error of the configuration or the database.

    With `--traceback` on the command line, the error is raised.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyportal.settings")
    try:
        yield
    except (ImproperlyConfigured, DatabaseError) as error:
        if "--traceback" in sys.argv:
            raise
        sys.exit(f"keyportal: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ImproperlyConfigured):
        return text
    if "session is read-only" in text:
        return "The database in DATABASE_URL is read-only, such as a hot standby. Use the primary."
    if text in CORRUPT:
        from django.conf import settings

        file = settings.DATABASES["default"]["NAME"]
        return f"The database {file} can't be read: {text}. Restore it from a backup."
    return f"The database says: {text}"


def disable_pool() -> None:
    """Connect without the pool. For a command, which needs one connection.

    A pool would hide the reason when the connection fails.
    """
    from django.conf import settings

    settings.DATABASES["default"].get("OPTIONS", {}).pop("pool", None)

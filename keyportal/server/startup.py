"""Start-up errors: an operator's mistake is reported in one line, without a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, ProgrammingError


@contextmanager
def startup_errors() -> Iterator[None]:
    """End the process with one line on stderr for an error of the configuration or the database.

    With `--traceback` on the command line, the error is raised.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyportal.settings")
    try:
        yield
    except (ImproperlyConfigured, OperationalError, ProgrammingError) as error:
        if "--traceback" in sys.argv:
            raise
        prefix = "" if isinstance(error, ImproperlyConfigured) else "The database says: "
        sys.exit(f"keyportal: {prefix}{' '.join(str(error).split())}")


def disable_pool() -> None:
    """Connect without the pool. For a command, which needs one connection.

    A pool would hide the reason when the connection fails.
    """
    from django.conf import settings

    settings.DATABASES["default"].get("OPTIONS", {}).pop("pool", None)

"""An operator's mistake deserves a sentence, not a traceback; a visitor's does, too."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, ProgrammingError


@contextmanager
def startup_errors() -> Iterator[None]:
    """Whatever is wrong with configuration or database ends the process with one line on stderr."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyportal.settings")
    try:
        yield
    except (ImproperlyConfigured, OperationalError, ProgrammingError) as error:
        if "--traceback" in sys.argv:
            raise
        whose = "" if isinstance(error, ImproperlyConfigured) else "The database says: "
        sys.exit(f"keyportal: {whose}{' '.join(str(error).split())}")


def disable_pool() -> None:
    """For a command, which has one connection: a pool would only hide why it failed."""
    from django.conf import settings

    settings.DATABASES["default"].get("OPTIONS", {}).pop("pool", None)

#!/usr/bin/env python
"""Django's command line for Keyportal."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyportal.settings")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        # An operator's mistake deserves a sentence, not a traceback.
        sys.exit(f"keyportal: {error}")


if __name__ == "__main__":
    main()

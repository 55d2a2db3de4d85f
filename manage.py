#!/usr/bin/env python
"""Django's command line for Keyportal."""

import sys

from django.core.management import execute_from_command_line

import keyportal
from keyportal.server.startup import disable_pool, startup_errors

if __name__ == "__main__":
    if sys.argv[1:] in (["version"], ["--version"]):  # Django would print its own.
        sys.exit(print(keyportal.__version__))  # noqa: T201
    with startup_errors():
        disable_pool()
        execute_from_command_line(sys.argv)

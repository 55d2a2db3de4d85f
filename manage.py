#!/usr/bin/env python
"""Django's command line for Keyportal."""

import sys

from django.core.management import execute_from_command_line

from keyportal.server.startup import disable_pool, startup_errors

if __name__ == "__main__":
    with startup_errors():
        disable_pool()
        execute_from_command_line(sys.argv)

#!/usr/bin/env python
"""Django's command line for Keyportal."""

import sys

from django.core.management import execute_from_command_line

from keyportal.server.startup import as_one_sentence, without_pool

if __name__ == "__main__":
    with as_one_sentence():
        without_pool()
        execute_from_command_line(sys.argv)

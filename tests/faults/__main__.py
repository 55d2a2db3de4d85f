"""`python -m tests.faults [NAME ...] [--short]`: break things, and print a table of what happened.

Needs PostgreSQL (a pip package), nginx and pgbouncer. The whole takes about five minutes, the short
form about one; there, other work may run on the machine, so times have wider bars.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from tests.faults.table import FAULTS, run  # noqa: E402
from tests.faults.world import running  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *FAULTS])
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="keyportal-faults-") as folder,
        running(Path(folder), short=arguments.short) as world,
    ):
        return 1 if run(world, arguments.names or list(FAULTS)) else 0


if __name__ == "__main__":
    sys.exit(main())

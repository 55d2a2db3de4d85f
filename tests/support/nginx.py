"""A real nginx on a free port, with a configuration of ours in its `http {}`."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.server import wait_until

TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextmanager
def nginx(configuration: str, folder: Path) -> Iterator[None]:
    """Runs while the block does. It keeps everything in `folder`, its log in `nginx.log`."""
    log, pid = folder / "nginx.log", folder / "nginx.pid"
    paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in TEMPORARY)
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; master_process off; pid {pid}; error_log {log} info;"
        "events { worker_connections 512; }"
        f"http {{ access_log off; {paths}\n{configuration}\n}}"
    )
    # Debian keeps it where a plain user's PATH doesn't look.
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert binary, "apt-get install nginx-light"
    command = [binary, "-p", str(folder), "-e", str(log), "-c", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # Written once it listens.
        wait_until(lambda: process.poll() is not None or (pid.exists() and pid.read_text()))
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(10)

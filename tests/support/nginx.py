"""A real nginx, with our configuration in its `http {}` block."""

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
    """Runs for the duration of the `with` block. All its files are in `folder`."""
    log, pid = folder / "nginx.log", folder / "nginx.pid"
    paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in TEMPORARY)
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; master_process off; pid {pid}; error_log {log} info;"
        "events { worker_connections 512; }"
        f"http {{ access_log off; {paths}\n{configuration}\n}}"
    )
    # On Debian it is in /usr/sbin, which is not on the PATH of a plain user.
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert binary, "apt-get install nginx-light"
    command = [binary, "-p", str(folder), "-e", str(log), "-c", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # nginx writes the file when it listens.
        wait_until(lambda: process.poll() is not None or (pid.exists() and pid.read_text()))
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(10)

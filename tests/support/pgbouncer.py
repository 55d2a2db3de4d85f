"""A real pgbouncer in transaction mode, in front of the PostgreSQL of the test run."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg

from tests.support.server import free_port, wait_until

# Fewer sessions than the connections of one worker, so that they are shared.
CONFIGURATION = """
[databases]
* = host={sockets} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 500
user = {user}
"""


@contextmanager
def pgbouncer(url: str, folder: Path) -> Iterator[str]:
    """Yields the address of this database through pgbouncer. Its log is in the folder."""
    parts = urlsplit(url)
    (sockets,) = parse_qs(parts.query)["host"]
    port = free_port()
    file, log = folder / "pgbouncer.ini", folder / "pgbouncer.log"
    # It refuses to run as root, and only the user of PostgreSQL may enter the folder of its socket.
    user = Path(sockets).owner()
    file.write_text(CONFIGURATION.format(sockets=sockets, port=port, user=user))
    binary = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert binary, "apt-get install pgbouncer"
    with log.open("wb") as output:
        process = subprocess.Popen([binary, str(file)], stdout=output, stderr=output)
    try:
        pooled = f"postgresql://postgres@127.0.0.1:{port}{parts.path}"
        wait_until(lambda: process.poll() is not None or _answers(pooled))
        assert process.poll() is None, log.read_text()
        yield pooled
    finally:
        process.terminate()
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True

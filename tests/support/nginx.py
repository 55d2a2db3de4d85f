"""A real nginx, with our configuration in its `http {}` block."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from tests.support.proxies import make_certificate
from tests.support.proxy_clients import edited_config
from tests.support.server import free_port, wait_until

TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def nodes_config(folder: Path, nodes: list[int], *, port: int = 0, plain_port: int = 0) -> str:
    """`deploy/nginx-nodes.conf` for two nodes on these ports of loopback.

    It listens on `port` by https with `certificate.pem` in the folder, and on `plain_port`.
    """
    certificate, key = make_certificate(folder)
    first, second = nodes
    return edited_config(
        Path(settings.BASE_DIR) / "deploy" / "nginx-nodes.conf",
        ("server node-1:8000", f"server 127.0.0.1:{first}"),
        ("server node-2:8000", f"server 127.0.0.1:{second}"),
        ("listen 80;", f"listen 127.0.0.1:{plain_port or free_port()};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port or free_port()} ssl;"),
        ("/etc/nginx/tls/tls.crt", str(certificate)),
        ("/etc/nginx/tls/tls.key", str(key)),
    )


def check(configuration: str, folder: Path) -> str:
    """What `nginx -t` complains of, warnings too; empty if it accepts the configuration."""
    command, log, _ = _command(configuration, folder)
    result = subprocess.run([*command, "-t", "-q"], capture_output=True, text=True)
    return result.stderr or ("" if result.returncode == 0 else log.read_text())


@contextmanager
def nginx(configuration: str, folder: Path) -> Iterator[None]:
    """Runs for the duration of the `with` block. All its files are in `folder`."""
    command, log, pid = _command(configuration, folder)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # nginx writes the file when it listens.
        wait_until(lambda: process.poll() is not None or (pid.exists() and pid.read_text()))
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(60)


def _command(configuration: str, folder: Path) -> tuple[list[str], Path, Path]:
    """Write the complete configuration; return the command, the log and the file of the pid."""
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
    return command, log, pid

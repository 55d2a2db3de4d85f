"""What is measured, and what it is measured against: real servers on free loopback ports.

The server under test has the first core to itself; the upstream and the load share the second.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.serving import free_port

ROOT = Path(__file__).resolve().parent.parent
TESTED_CORE = "0"
OTHER_CORE = "1"
ANSWER = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"instant","choices":'
    '[{"index":0,"message":{"role":"assistant","content":"Hello!"},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":2,"completion_tokens":1,"total_tokens":3}}'
)


class Server(NamedTuple):
    """A running server: its address, and the process that `cpu_seconds` adds up from."""

    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """Processor time that it and its children have used so far."""
        ticks = 0
        for process in [self.pid, *_children(self.pid)]:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        """Memory of its largest process, which is the worker."""
        pages = [
            int(Path(f"/proc/{process}/statm").read_text().split()[1])
            for process in [self.pid, *_children(self.pid)]
        ]
        return max(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def upstream() -> Iterator[Server]:
    """nginx, which answers every call at once with the same completion."""
    body = ANSWER.replace("'", "")
    location = f"default_type application/json; return 200 '{body}';"
    with _nginx(OTHER_CORE, "", location) as server:
        yield server


@contextmanager
def nginx_gateway(to: str, key: str) -> Iterator[Server]:
    """The floor: nginx as the gateway, with the one key in a static map."""
    prelude = f"""
        map_hash_bucket_size 256;
        map $http_authorization $is_known {{ default 0; "Bearer {key}" 1; }}
        upstream model {{ server {to.removeprefix("http://")}; keepalive 64; }}
    """
    location = """
        if ($is_known = 0) { return 401; }
        proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection "";
    """
    with _nginx(TESTED_CORE, prelude, location) as server:
        yield server


@contextmanager
def keyportal(to: str, workers: int = 1) -> Iterator[tuple[Server, str, str]]:
    """Keyportal with a model on the upstream; yields it, a key, and the name of the model."""
    with tempfile.TemporaryDirectory(prefix="keyportal-bench-") as folder:
        port = free_port()
        environment = os.environ | {
            "KEYPORTAL_DATA": folder,
            "PORT": str(port),
            "WEB_CONCURRENCY": str(workers),
        }
        key, model = "", "u-0000000000be/instant"
        # The command becomes the server: with --demo it has a team and its owner.
        command = ["taskset", "-c", TESTED_CORE, sys.executable, "-m", "keyportal.serve", "--demo"]
        with _running(command, f"http://127.0.0.1:{port}", environment) as server:

            def manage(*arguments: str) -> str:
                command = [sys.executable, "manage.py", *arguments]
                return subprocess.run(
                    command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True
                ).stdout.strip()

            team = "u-8105f7322477"
            model = f"{team}/instant"
            manage("add_upstream", "instant", f"{to}/v1")
            manage("add_model", model, "--upstream", "instant", "--team", team)
            key = manage("issue_key", "--team", team, "--owner", "demo", "--name", "bench")
            yield server, key, model


@contextmanager
def _nginx(core: str, prelude: str, location: str) -> Iterator[Server]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="keyportal-nginx-") as folder:
        configuration = Path(folder) / "nginx.conf"
        paths = " ".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log stderr crit;"
            f"events {{ worker_connections 4096; }}"
            f"http {{ access_log off; client_max_body_size 32m; client_body_buffer_size 4m; {paths}"
            f"keepalive_requests 100000000; {prelude} server {{ listen 127.0.0.1:{port};"
            f"location / {{ {location} }} }} }}"
        )
        binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        command = ["taskset", "-c", core, str(binary), "-p", folder, "-c", str(configuration)]
        with _running(command, f"http://127.0.0.1:{port}", dict(os.environ)) as server:
            yield server


@contextmanager
def _running(command: list[str], url: str, environment: dict[str, str]) -> Iterator[Server]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet)
    try:
        _wait_for(url, process)
        yield Server(url, process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/v1/models", timeout=2).close()  # noqa: S310 - loopback
        except urllib.error.HTTPError as refused:
            refused.close()
        except OSError:
            time.sleep(0.05)
            continue
        return
    raise RuntimeError(f"{url} does not answer.")


def _children(pid: int) -> list[int]:
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, file.read_text().split()):
            found += [child, *_children(child)]
    return found

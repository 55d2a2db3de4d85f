"""The servers: Keyportal, and for comparison the upstream itself and nginx as the gateway."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import databases
from benchmarks.processes import OTHER_CORES, ROOT, TESTED_CORE, Server, running
from tests.support.server import free_port

# The key's limits: counted for every call and never reached.
LIMITS = ("--requests-per-minute", "100000000")
TEAM = "u-8105f7322477"
OWNER = "demo"
USAGE = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "instant",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello!"},
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}


class LoadTarget(NamedTuple):
    """A server, and what the load sends to it."""

    server: Server
    model: str = "instant"
    keys: tuple[str, ...] = ("none",)
    headers: tuple[tuple[str, str], ...] = ()
    request_line: str = "POST /v1/chat/completions"
    """Method and path. A POST has the body of a chat completion."""

    @property
    def url(self) -> str:
        return self.server.url


class Keyportal:
    """One start on a new database, with a demo team that has keys and a model."""

    def __init__(self, server: Server, environment: Mapping[str, str]) -> None:
        self.server = server
        self._environment = environment

    def manage(self, *arguments: str, **variables: str) -> str:
        return self.run("manage.py", *arguments, **variables)

    def run(self, *arguments: str, **variables: str) -> str:
        """Run Python with the same database and these environment variables more, and return its
        output.
        """
        result = subprocess.run(
            [sys.executable, *arguments],
            env={**self._environment, **variables},
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise RuntimeError(result.stderr)
        return result.stdout.strip()

    def load_target(self, upstream: Server) -> LoadTarget:
        """Create a model on the upstream and a key with limits, and return them as a target."""
        model = f"{TEAM}/instant"
        self.manage("add_upstream", "instant", f"{upstream.url}/v1")
        self.manage("add_model", model, "--upstream", "instant", "--team", TEAM)
        names = ("--team", TEAM, "--owner", OWNER, "--name", "bench")
        return LoadTarget(self.server, model, (self.manage("keys", "create", *names, *LIMITS),))


@contextmanager
def keyportal(cores: str = TESTED_CORE, workers: int = 1) -> Iterator[Keyportal]:
    with (
        tempfile.TemporaryDirectory(prefix="keyportal-bench-") as folder,
        databases.fresh(folder) as database,
    ):
        port = free_port()
        environment = os.environ | {
            "KEYPORTAL_DATA": folder,
            "DATABASE_URL": database,
            "PORT": str(port),
            "WEB_CONCURRENCY": str(workers),
            "DJANGO_SETTINGS_MODULE": "keyportal.settings",
        }
        # --demo creates a team and its owner.
        command = [sys.executable, "-m", "keyportal.serve", "--demo"]
        url = f"http://127.0.0.1:{port}"
        with running(command, url, cores=cores, environment=environment) as server:
            yield Keyportal(server, environment)


@contextmanager
def instant_upstream() -> Iterator[Server]:
    """nginx that answers every call at once with the same completion."""
    location = f"default_type application/json; return 200 '{json.dumps(ANSWER)}';"
    with _nginx(OTHER_CORES, "", location) as server:
        yield server


@contextmanager
def nginx_gateway(upstream: Server, key: str) -> Iterator[LoadTarget]:
    """nginx as the gateway, with one key in a static map: the lowest possible cost."""
    prelude = f"""
        map_hash_bucket_size 256;
        map $http_authorization $is_known {{ default 0; "Bearer {key}" 1; }}
        upstream model {{ server {upstream.url.removeprefix("http://")}; keepalive 64; }}
    """
    location = """
        if ($is_known = 0) { return 401; }
        proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection "";
    """
    with _nginx(TESTED_CORE, prelude, location) as server:
        yield LoadTarget(server, keys=(key,))


@contextmanager
def streaming_upstream() -> Iterator[Server]:
    """Streams 20 chunks per second to each caller, at evenly distributed times."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.stream_upstream", str(port)]
    with running(command, f"http://127.0.0.1:{port}", cores=OTHER_CORES) as server:
        yield server


@contextmanager
def _nginx(cores: str, prelude: str, location: str) -> Iterator[Server]:
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
        command = [str(binary), "-p", folder, "-c", str(configuration)]
        with running(command, f"http://127.0.0.1:{port}", cores=cores) as server:
            yield server

"""The load: wrk, on the core that the server under test doesn't have. Bounded in time."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.servers import OTHER_CORE

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


class Load(NamedTuple):
    """What wrk saw."""

    per_second: float
    median_ms: float
    refused: int
    """Answers other than 2xx."""


def fire(
    url: str, key: str, model: str, *, connections: int, seconds: float, prompt: int = 1024
) -> Load:
    """POST chat completions with a prompt of `prompt` bytes as fast as they are answered."""
    with tempfile.TemporaryDirectory(prefix="keyportal-load-") as folder:
        script = Path(folder) / "post.lua"
        script.write_text(
            f'wrk.method = "POST"\n'
            f'wrk.headers["Content-Type"] = "application/json"\n'
            f'wrk.headers["Authorization"] = "Bearer {key}"\n'
            f'wrk.body = \'{{"model": "{model}", "messages": [{{"role": "user", "content": "\''
            f' .. string.rep("x", {prompt}) .. \'"}}]}}\'\n'
        )
        command = ["taskset", "-c", OTHER_CORE, "wrk", "-t1", f"-c{connections}"]
        options = [f"-d{seconds:g}s", "--timeout", "10s", "--latency", "-s", str(script)]
        done = subprocess.run(
            [*command, *options, f"{url}/v1/chat/completions"],
            check=True,
            capture_output=True,
            text=True,
            timeout=seconds + 30,
        )
    return _read(done.stdout)


def _read(report: str) -> Load:
    per_second = re.search(r"Requests/sec:\s+([\d.]+)", report)
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", report)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    if not per_second or not median:
        raise RuntimeError(report)
    return Load(
        float(per_second[1]),
        float(median[1]) * _UNITS[median[2]],
        int(refused[1]) if refused else 0,
    )

"""The load: wrk, for a limited time, on the cores that are not tested."""

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import OTHER_CORES, on_cores
from benchmarks.servers import LoadTarget

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


class Load(NamedTuple):
    """The results of wrk."""

    requests: int
    per_second: float
    median_ms: float
    refused: int
    """Requests with another status than 2xx, or without an answer."""

    @property
    def served(self) -> "Load":
        """The same load. Raises `RuntimeError` if a request was refused."""
        if self.refused:
            raise RuntimeError(f"{self.refused} of {self.requests} calls were not served.")
        return self


def fire(target: LoadTarget, *, connections: int, seconds: int, prompt: int = 1024) -> Load:
    """Send the target's request as fast as possible; a POST has a prompt of `prompt` bytes.

    The target's keys take turns, one request each.
    """
    with tempfile.TemporaryDirectory(prefix="keyportal-load-") as folder:
        script = Path(folder) / "post.lua"
        method, path = target.request_line.split()
        script.write_text(_script(target, method, prompt))
        command = on_cores(OTHER_CORES, "wrk", "-t1", f"-c{connections}")
        options = [f"-d{seconds}s", "--timeout", "10s", "--latency", "-s", str(script)]
        result = subprocess.run(
            [*command, *options, f"{target.url}{path}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        )
    if result.returncode:
        raise RuntimeError(result.stderr + result.stdout)
    return _read(result.stdout)


def _script(target: LoadTarget, method: str, prompt: int) -> str:
    """A wrk script that builds all requests before the first is sent."""
    message = {"role": "user", "content": "x" * prompt}
    completion = json.dumps({"model": target.model, "messages": [message]})
    body = f"[==[{completion}]==]" if method == "POST" else "nil"
    headers = "".join(f'["{name}"] = "{value}", ' for name, value in target.headers)
    keys = ", ".join(f'"{key}"' for key in target.keys)
    return f"""
        local requests, turn = {{}}, 0
        init = function()
            for at, key in ipairs({{ {keys} }}) do
                wrk.headers = {{
                    {headers} ["Host"] = wrk.headers["Host"],
                    ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. key
                }}
                requests[at] = wrk.format("{method}", nil, nil, {body})
            end
        end
        request = function()
            turn = turn % #requests + 1
            return requests[turn]
        end
    """


def _read(report: str) -> Load:
    requests = re.search(r"(\d+) requests in", report)
    per_second = re.search(r"Requests/sec:\s+([\d.]+)", report)
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", report)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    broken = re.search(r"Socket errors: (.+)", report)
    if not requests or not per_second or not median:
        raise RuntimeError(report)
    return Load(
        int(requests[1]),
        float(per_second[1]),
        float(median[1]) * _UNITS[median[2]],
        (int(refused[1]) if refused else 0)
        + (sum(map(int, re.findall(r"\d+", broken[1]))) if broken else 0),
    )

"""The load: wrk, off the tested core. Bounded in time."""

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import OTHER_CORES, on_cores
from benchmarks.servers import Door

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


class Load(NamedTuple):
    """What wrk saw."""

    requests: int
    per_second: float
    median_ms: float
    refused: int
    """Answers other than 2xx, and none at all."""

    @property
    def served(self) -> "Load":
        """Itself; a figure for refusals would say nothing."""
        if self.refused:
            raise RuntimeError(f"{self.refused} of {self.requests} calls were not served.")
        return self


def fire(door: Door, *, connections: int, seconds: int, prompt: int = 1024) -> Load:
    """Ask for chat completions with a prompt of `prompt` bytes, or for what else is behind the
    door, as fast as it is answered.

    The door's keys take turns, a request each.
    """
    with tempfile.TemporaryDirectory(prefix="keyportal-load-") as folder:
        script = Path(folder) / "post.lua"
        method, path = door.asks.split()
        script.write_text(_script(door, method, prompt))
        command = on_cores(OTHER_CORES, "wrk", "-t1", f"-c{connections}")
        options = [f"-d{seconds}s", "--timeout", "10s", "--latency", "-s", str(script)]
        done = subprocess.run(
            [*command, *options, f"{door.url}{path}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        )
    if done.returncode:
        raise RuntimeError(done.stderr + done.stdout)
    return _read(done.stdout)


def _script(door: Door, method: str, prompt: int) -> str:
    """Every request is made before the first is sent, so that making them costs nothing."""
    message = {"role": "user", "content": "x" * prompt}
    completion = json.dumps({"model": door.model, "messages": [message]})
    body = f"[==[{completion}]==]" if method == "POST" else "nil"
    headers = "".join(f'["{name}"] = "{value}", ' for name, value in door.headers)
    keys = ", ".join(f'"{key}"' for key in door.keys)
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

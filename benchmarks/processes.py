"""Processes on loopback, each on its core, and what they use.

What is tested has the first core to itself. The load, the upstream and the database share the
others: `OTHER_CORES`.
"""

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
_CORES = [str(core) for core in range(os.cpu_count() or 1)]
TESTED_CORE = _CORES[0]
OTHER_CORES = ",".join(_CORES[1:])


class Server(NamedTuple):
    """A running server: its address, and the process that it began as."""

    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """Processor time that it and its children have used so far."""
        return sum(_cpu_seconds(process) for process in self._processes())

    def resident_bytes(self) -> int:
        """Memory of its worker."""
        statm = Path(f"/proc/{self.worker()}/statm").read_text()
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def worker(self) -> int:
        """Its first child, or itself where it has none."""
        return (_children(self.pid) or [self.pid])[0]

    def _processes(self) -> list[int]:
        return [self.pid, *_children(self.pid)]


class Disturbance:
    """What other programs take from the machine while we measure."""

    def __init__(self, *ours: Server) -> None:
        """`ours` were started by somebody else, for us."""
        self._ours = ours
        self._before = self._busy_seconds(), self._own_seconds(), time.monotonic()

    def share(self) -> float:
        """Of all cores, since this was made; what we started must have ended."""
        busy, own, began = self._before
        others = (self._busy_seconds() - busy) - (self._own_seconds() - own)
        return max(0.0, others / (time.monotonic() - began) / len(_CORES))

    def _own_seconds(self) -> float:
        return sum(os.times()[:4]) + sum(server.cpu_seconds() for server in self._ours)

    def _busy_seconds(self) -> float:
        """User, nice, system, interrupts, and what the hypervisor gave to others."""
        _, user, nice, system, _, _, irq, softirq, steal, *_ = (
            Path("/proc/stat").read_text().partition("\n")[0].split()
        )
        ticks = map(int, (user, nice, system, irq, softirq, steal))
        return sum(ticks) / os.sysconf("SC_CLK_TCK")


def require_cores() -> None:
    """Also pins this process to the others, and so all that it starts and doesn't pin itself."""
    if not OTHER_CORES:
        raise SystemExit("A server on one core and its load on another: this needs two cores.")
    os.sched_setaffinity(0, map(int, OTHER_CORES.split(",")))


def on_cores(cores: str, *command: str) -> list[str]:
    return [str(shutil.which("taskset")), "-c", cores, *command]


@contextmanager
def running(
    command: list[str],
    url: str,
    *,
    cores: str,
    environment: Mapping[str, str] | None = None,
    seconds: float = 60,
) -> Iterator[Server]:
    """The server while it runs; it must answer `url` within `seconds`."""
    process = subprocess.Popen(
        on_cores(cores, *command),
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(url, process, seconds)
        yield Server(url, process.pid)
    finally:
        process.terminate()
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
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


def thread_cpu_seconds(pid: int, thread: int) -> float:
    """From the scheduler, to the nanosecond."""
    return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) / 1e9


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # Ended children are in it.

"""Server processes on loopback, their cores, and the processor time and memory that they use.

The tested server has the first core for itself. The load, the upstream and the database share the
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
    """A running server: its URL, and the id of its main process."""

    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """Processor time used so far by the server and its children."""
        return sum(_cpu_seconds(process) for process in self._processes())

    def resident_bytes(self) -> int:
        """Resident memory of the server's worker."""
        statm = Path(f"/proc/{self.worker()}/statm").read_text()
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def worker(self) -> int:
        """The process id of the first child, or of the server itself if it has none."""
        return (_children(self.pid) or [self.pid])[0]

    def _processes(self) -> list[int]:
        return [self.pid, *_children(self.pid)]


class Disturbance:
    """Measures how much of the machine other programs use."""

    def __init__(self, *ours: Server) -> None:
        """`ours` are servers of the benchmark that this process did not start."""
        self._ours = ours
        self._before = self._busy_seconds(), self._own_seconds(), time.monotonic()

    def share(self) -> float:
        """The share of all cores since this object was created.

        Processes started by this one must have ended.
        """
        busy, own, began = self._before
        others = (self._busy_seconds() - busy) - (self._own_seconds() - own)
        return max(0.0, others / (time.monotonic() - began) / len(_CORES))

    def _own_seconds(self) -> float:
        return sum(os.times()[:4]) + sum(server.cpu_seconds() for server in self._ours)

    def _busy_seconds(self) -> float:
        """Time in user, nice, system, interrupts, and stolen by the hypervisor."""
        _, user, nice, system, _, _, irq, softirq, steal, *_ = (
            Path("/proc/stat").read_text().partition("\n")[0].split()
        )
        ticks = map(int, (user, nice, system, irq, softirq, steal))
        return sum(ticks) / os.sysconf("SC_CLK_TCK")


def require_cores() -> None:
    """Require two cores, and pin this process and its children to the cores that are not tested."""
    if not OTHER_CORES:
        raise SystemExit("The benchmarks need two cores: one for the server, another for its load.")
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
    """Run a server, which must answer at `url` within `seconds`."""
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
        _wait_for_end(process)


def _wait_for_end(process: subprocess.Popen[bytes]) -> None:
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
    children = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, file.read_text().split()):
            children += [child, *_children(child)]
    return children


def thread_cpu_seconds(pid: int, thread: int) -> float:
    """Processor time of a thread, from the scheduler, in nanosecond resolution."""
    return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) / 1e9


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # With children that have ended.

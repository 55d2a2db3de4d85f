"""A profile of a worker under full load, in microseconds per request.

The operating system reports the processor time of each thread; py-spy's samples only divide it
among functions.
"""

import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from benchmarks import servers, table, tools
from benchmarks.load import fire
from benchmarks.plan import CONNECTIONS, Plan
from benchmarks.processes import thread_cpu_seconds
from benchmarks.servers import LoadTarget

PY_SPY = "0.4.3"
SAMPLES_PER_SECOND = 250
MAX_ROWS = 40
# A pool's thread that waits for work. py-spy counts it as running.
IDLE_FRAME = "_worker (concurrent/futures/thread.py)"


class Stack(NamedTuple):
    """Frames such as `judge (keyportal/gateway/admission/verdict.py)`, the outermost first."""

    thread: str
    frames: tuple[str, ...]
    us: float
    """Microseconds per request in exactly this stack."""


def profile(plan: Plan) -> None:
    seconds = plan.seconds * plan.rounds
    try:
        py_spy = str(tools.from_pip("py-spy", PY_SPY) / "py-spy")
        with servers.instant_upstream() as upstream, servers.keyportal() as keyportal:
            target = keyportal.load_target(upstream)
            used = _thread_us(py_spy, target, seconds)
            stacks = _weighted_stacks(_sample(py_spy, target, seconds), used)
    except tools.NotInstalled as reason:
        table.row("profile", f"not taken: {reason}")
        return
    total = f"of {sum(used.values()):.0f} µs of processor time a request"
    _print(f"By thread, {total}", Counter(used))
    _print(
        f"By part, {total}",
        _sum((f"{stack.thread}: {_part(stack)}", stack.us) for stack in stacks),
    )
    _print(f"By function, itself, {total}", _sum((stack.frames[-1], stack.us) for stack in stacks))
    everything = _sum((frame, stack.us) for stack in stacks for frame in {*stack.frames})
    # Functions that contain nearly a whole thread say nothing.
    inside = {frame: us for frame, us in everything.items() if us < 0.98 * max(used.values())}
    _print("By function, with all that it calls", Counter(inside))


def _thread_us(py_spy: str, target: LoadTarget, seconds: int) -> dict[str, float]:
    """Processor time per request for each thread, measured without py-spy."""
    fire(target, connections=CONNECTIONS, seconds=1)  # Afterwards all threads exist.
    worker = target.server.worker()
    names = re.findall(r'Thread (\d+) .*"(.+)"', _run(py_spy, "dump", "--pid", str(worker)))
    before = {thread: thread_cpu_seconds(worker, int(thread)) for thread, _ in names}
    requests = fire(target, connections=CONNECTIONS, seconds=seconds).served.requests
    used: defaultdict[str, float] = defaultdict(float)
    for thread, name in names:
        spent = thread_cpu_seconds(worker, int(thread)) - before[thread]
        used[_thread(name)] += spent / requests * 1e6
    return used


def _sample(py_spy: str, target: LoadTarget, seconds: int) -> list[str]:
    """Lines such as `thread (1A2B): "name";frame;frame 17`."""
    with (
        tempfile.TemporaryDirectory(prefix="keyportal-profile-") as folder,
        ThreadPoolExecutor(1) as pool,
    ):
        file = Path(folder) / "stacks.txt"
        pool.submit(fire, target, connections=CONNECTIONS, seconds=seconds + 2)
        where = ["--pid", str(target.server.worker()), "--output", str(file)]
        options = ["--threads", "--function", "--format", "raw", "--duration", f"{seconds}"]
        _run(py_spy, "record", *where, *options, "--rate", str(SAMPLES_PER_SECOND))
        return file.read_text().splitlines()


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise tools.NotInstalled(result.stderr.strip().splitlines()[-1])
    return result.stdout


def _weighted_stacks(lines: Iterable[str], used: dict[str, float]) -> list[Stack]:
    """The processor time of each thread, divided among its stacks by their samples."""
    stacks = []
    for line in lines:
        frames, _, samples = line.rpartition(" ")
        thread, *rest = (re.sub(r":\d+\)$", ")", frame) for frame in frames.split(";"))
        if rest[-1] != IDLE_FRAME:
            stacks.append(Stack(_thread(thread), tuple(rest), float(samples)))
    samples_of = _sum((stack.thread, stack.us) for stack in stacks)
    return [
        stack._replace(us=stack.us * used.get(stack.thread, 0) / samples_of[stack.thread])
        for stack in stacks
    ]


def _sum(weights: Iterable[tuple[str, float]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for name, weight in weights:
        sums[name] += weight  # type: ignore[assignment]  # a Counter may hold floats
    return sums


def _thread(name: str) -> str:
    """The pool's name: `admission` for `thread (0x1A2B): "admission_0"`."""
    name = name.rpartition(": ")[2].strip('"')
    return "event loop" if name == "MainThread" else re.sub(r"_\d+$", "", name)


def _part(stack: Stack) -> str:
    """The module for Keyportal's own code, the package for other code."""
    path = stack.frames[-1].rpartition("(")[2].removesuffix(")")
    if path.startswith("keyportal/"):
        return path
    if "asyncio/runners.py" in stack.frames[-1]:
        return "uvloop and system calls"
    return path.partition("/")[0]


def _print(title: str, sums: Counter[str]) -> None:
    table.begin(title)
    for name, us in sums.most_common(MAX_ROWS):
        table.row(name, f"{us:.1f} µs")

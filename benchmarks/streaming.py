"""Many concurrent streams through one core, against the same directly from the upstream."""

import json
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from benchmarks import servers
from benchmarks.plan import Plan
from benchmarks.processes import OTHER_CORES, ROOT, on_cores
from benchmarks.servers import LoadTarget
from benchmarks.streams import CHUNKS, CHUNKS_PER_SECOND, Reading
from benchmarks.table import median, row

MAX_SECONDS = 120


class Turn(NamedTuple):
    """The reading of all streams, and the largest growth of the server's memory in bytes."""

    reading: Reading
    growth: int

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.reading.seconds)


def many_streams(plan: Plan) -> None:
    with servers.streaming_upstream() as upstream, servers.keyportal() as keyportal:
        target, direct = keyportal.load_target(upstream), LoadTarget(upstream)
        # The first call loads modules, which are not memory of a stream.
        _measure_turn(target, 10)
        used = keyportal.server.cpu_seconds()
        turns = [
            (_measure_turn(direct, plan.streams), _measure_turn(target, plan.streams))
            for _ in range(plan.rounds)
        ]
        used = keyportal.server.cpu_seconds() - used
    direct_turns, relayed_turns = zip(*turns, strict=True)
    _report(list(direct_turns), list(relayed_turns), used, plan)


def _report(direct: list[Turn], relayed: list[Turn], used: float, plan: Plan) -> None:
    label = f"{plan.streams} streams at {CHUNKS_PER_SECOND} chunks/s"
    sent = plan.streams * CHUNKS * plan.rounds
    chunks = sum(turn.reading.chunks for turn in relayed)
    complete = sum(len(turn.reading.seconds) for turn in relayed)
    row(
        f"{label}: chunks delivered",
        f"{chunks} of {sent}, {complete} of {plan.streams * plan.rounds} streams complete",
    )
    relayed_seconds = median(turn.median_seconds for turn in relayed)
    direct_seconds = median(turn.median_seconds for turn in direct)
    row(
        f"{label}: median stream time against direct",
        f"{relayed_seconds:.3f} s / {direct_seconds:.3f} s = "
        f"{100 * (relayed_seconds / direct_seconds - 1):+.1f} %",
    )
    # Only of the first turn: later turns reuse its memory.
    row(f"{label}: memory per stream", f"{relayed[0].growth / plan.streams / 1000:.0f} kB")
    busy = median(turn.reading.busy for turn in relayed)
    row(
        f"{label}: processor time per chunk; the reader's share of its core",
        f"{used / sent * 1e6:.0f} µs; {100 * busy:.0f} %",
    )


def _measure_turn(target: LoadTarget, streams: int) -> Turn:
    before = highest = target.server.resident_bytes()
    port = target.url.rpartition(":")[2]
    command = [sys.executable, "-m", "benchmarks.stream_client", port, target.keys[0], target.model]
    with subprocess.Popen(
        on_cores(OTHER_CORES, *command, str(streams)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        deadline = time.monotonic() + MAX_SECONDS
        while client.poll() is None and time.monotonic() < deadline:
            highest = max(highest, target.server.resident_bytes())
            time.sleep(0.25)
        client.kill()
        output, _ = client.communicate()
    return Turn(Reading(**json.loads(output)), highest - before)

"""Many streams at once through one core, against the same straight from the upstream."""

import json
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from benchmarks import servers
from benchmarks.plan import Plan
from benchmarks.processes import OTHER_CORES, ROOT, on_cores
from benchmarks.servers import Door
from benchmarks.streams import CHUNKS, CHUNKS_A_SECOND, Reading
from benchmarks.table import median, row

MOST_SECONDS = 120


class Turn(NamedTuple):
    """What `streams` streams did, and how much memory their server grew by at most."""

    reading: Reading
    grown: int

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.reading.seconds)


def many_streams(plan: Plan) -> None:
    with servers.streaming_upstream() as upstream, servers.keyportal() as keyportal:
        door, direct = keyportal.door(upstream), Door(upstream)
        _turn(door, 10)  # What is loaded once, with the first call, is no stream's memory.
        used = keyportal.server.cpu_seconds()
        turns = [
            (_turn(direct, plan.streams), _turn(door, plan.streams)) for _ in range(plan.rounds)
        ]
        used = keyportal.server.cpu_seconds() - used
    straight, ours = zip(*turns, strict=True)
    _report(list(straight), list(ours), used, plan)


def _report(straight: list[Turn], ours: list[Turn], used: float, plan: Plan) -> None:
    what = f"{plan.streams} streams at {CHUNKS_A_SECOND} chunks/s"
    sent = plan.streams * CHUNKS * plan.rounds
    chunks = sum(turn.reading.chunks for turn in ours)
    ended = sum(len(turn.reading.seconds) for turn in ours)
    row(
        f"{what}: chunks delivered",
        f"{chunks} of {sent}, {ended} of {plan.streams * plan.rounds} streams ended properly",
    )
    through = median(turn.median_seconds for turn in ours)
    direct = median(turn.median_seconds for turn in straight)
    row(
        f"{what}: median stream time against direct",
        f"{through:.3f} s / {direct:.3f} s = {100 * (through / direct - 1):+.1f} %",
    )
    # The first turn alone tells: what it took from the system, later turns use again.
    row(f"{what}: memory a stream", f"{ours[0].grown / plan.streams / 1000:.0f} kB")
    row(
        f"{what}: processor time a chunk; the reader's share of its core",
        f"{used / sent * 1e6:.0f} µs; {100 * median(turn.reading.busy for turn in ours):.0f} %",
    )


def _turn(door: Door, streams: int) -> Turn:
    before = most = door.server.resident_bytes()
    port = door.url.rpartition(":")[2]
    command = [sys.executable, "-m", "benchmarks.stream_client", port, door.keys[0], door.model]
    with subprocess.Popen(
        on_cores(OTHER_CORES, *command, str(streams)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        deadline = time.monotonic() + MOST_SECONDS
        while client.poll() is None and time.monotonic() < deadline:
            most = max(most, door.server.resident_bytes())
            time.sleep(0.25)
        client.kill()
        output, _ = client.communicate()
    return Turn(Reading(**json.loads(output)), most - before)

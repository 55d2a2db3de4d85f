"""Faults of Keyportal's own processes and hosts."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.load import INVALID, LIMITED, OK, Load
from tests.faults.world import LIMIT, STREAM, Result, World
from tests.support.clock import ensure_time_left
from tests.support.nginx import nginx, nodes_config
from tests.support.server import (
    BareServer,
    Connection,
    PatientServer,
    Server,
    free_port,
    wait_until,
)


class CleaningServer(BareServer):
    """A node that cleans five times a second."""

    module = [
        "gunicorn",
        "-c",
        "python:tests.faults.gunicorn_cleaning",
        "keyportal.asgi:application",
    ]


class AheadServer(BareServer):
    """The same with a clock that is two hours ahead."""

    module = [
        "gunicorn",
        "-c",
        "python:tests.faults.gunicorn_ahead",
        "keyportal.asgi:application",
    ]


def clock_is_ahead(world: World) -> Result:
    """One node's clock is two hours ahead, and it deletes what it takes for old."""
    node = world.node(AheadServer)
    ports = [world.nodes[1].port, node.port]
    ensure_time_left(world.seconds(30, 25))
    load = world.load(ports, "limited", "deleted")
    with load.running():
        wait_until(lambda: load.outcomes("limited")[OK] > 50, 20)
        began = time.monotonic()
        time.sleep(world.seconds(15, 4))
        wait_until(lambda: load.outcomes("limited")[LIMITED] > 50)
    refused_pages = load.outcomes(since=began).total()
    node.stop()
    admitted = load.outcomes("limited")[OK]
    return Result(
        f"{admitted} admitted of a limit of {LIMIT}, of {refused_pages} requests while it cleaned",
        admitted == LIMIT and not set(load.outcomes()) - {OK, LIMITED, INVALID},
    )


def nodes_are_replaced(world: World) -> Result:
    """TERM and HUP, one node after the other, behind nginx with the configuration we hand out."""
    drain = str(int(world.seconds(5, 2)))
    # A call may not fail, so it may not be refused because a busy machine is late.
    kind = PatientServer if world.is_short else BareServer
    nodes = [world.node(kind, KEYPORTAL_DRAIN_SECONDS=drain) for _ in range(2)]
    usage = world.begin_to_count()
    with _balanced(world, nodes) as port:
        load = world.load([port] * 4, "free", "counted")
        with load.running():
            for _ in range(int(world.seconds(4, 1))):
                for node in nodes:
                    _replace_workers(node)
                    assert node.stop() == 0
                    node.start()
            count = world.seconds(10_000, 300)
            wait_until(lambda: len(load.answers) > count, world.seconds(120, 60))
    outcomes = load.outcomes()
    text = usage.text()
    return Result(
        f"{outcomes.total() - outcomes[OK]} lost of {outcomes.total():,}; {text}",
        set(outcomes) == {OK} and text == "usage exact",
    )


@contextmanager
def _balanced(world: World, nodes: list[Server]) -> Iterator[int]:
    folder = world.folder / "nginx"
    folder.mkdir()
    port = free_port()
    configuration = nodes_config(folder, [node.port for node in nodes], plain_port=port)
    if world.is_short:
        configuration = configuration.replace("keepalive_timeout 4s;", "keepalive_timeout 1s;")
    with nginx(f"keepalive_requests 1000000; {configuration}", folder):
        yield port


def _replace_workers(node: Server) -> None:
    """HUP, until all workers are new ones."""
    old = node.workers()
    node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: node.workers() and not set(old) & set(node.workers()))


def node_is_killed(world: World) -> Result:
    """kill -9 of all processes of a node, while streams run and calls end."""
    node = world.node()
    usage = world.begin_to_count()
    load = world.load([node.port], "free")
    streams = [Connection(node.port, 60) for _ in range(5)]
    span = world.seconds(8, 5)
    with load.running():
        for stream in streams:
            stream.chat(world.keys["streaming"], STREAM, stream=True)
            stream.read_head()
        events = _read_events(streams[0], span)
        node.kill()
    for stream in streams:
        stream.close()
    requests, tokens = _count_lost_streams(world, len(streams))
    written, _ = usage.written()
    lost = usage.served + requests - written
    seconds = _span(load, lost)
    age = span * (1 - tokens / (events * len(streams)))
    return Result(
        f"{tokens} tokens of {requests} running streams are counted, which had sent {events} "
        f"events each: those until {max(age, 0):.1f} s before the kill; "
        f"{lost} ended calls of {usage.served} are lost, those of the last {seconds:.1f} s",
        requests == len(streams) and world.within(age, 2) and age > -1 and world.within(seconds, 2),
    )


def _count_lost_streams(world: World, count: int) -> tuple[int, int]:
    """Let minutes pass for the rows of dead workers. Returns requests and tokens of the streams."""
    cleaning = world.node(CleaningServer)
    world.sql("UPDATE usage_runningcalls SET written_at = written_at - interval '90 seconds'")
    with suppress(AssertionError):
        wait_until(lambda: _streams(world)[0] >= count, 20)
    time.sleep(1)  # Nothing more may be counted.
    cleaning.stop()
    return _streams(world)


def _streams(world: World) -> tuple[int, int]:
    ((requests, tokens),) = world.sql(
        "SELECT coalesce(sum(requests), 0), coalesce(sum(completion_tokens), 0)"
        " FROM usage_usageday WHERE public_id = %s",
        world.public_ids["streaming"],
    )
    return int(requests), int(tokens)


def _read_events(stream: Connection, seconds: float) -> int:
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        count += stream.chunk().count(b"data:")
    return count


def _span(load: Load, count: int) -> float:
    """The seconds in which the last calls ended that were answered."""
    ended = sorted(answer.ended for answer in load.answers if answer.outcome == OK)
    return ended[-1] - ended[-count] if count > 0 else 0.0


def bodies_fill_the_memory(world: World) -> Result:
    """Many connections with one key send large bodies; another key calls meanwhile."""
    count, size = int(world.seconds(200, 60)), 20 * 1024 * 1024
    node = world.node()
    load = world.load([node.port], "free")
    with load.running():
        wait_until(lambda: load.outcomes()[OK] > 20)
        with _flood(world, node, count, size) as flood:
            shares = [_share_beside(flood, load) for _ in range(int(world.seconds(5, 1)))]
    memory = max(map(_peak_mebibytes, node.workers()))
    node.kill()
    parts = ", ".join(f"{share:.0%}" for share in sorted(shares))
    return Result(
        f"{count} bodies of 20 MiB at once: another key keeps {parts} of its throughput; "
        f"the largest worker has {memory} MiB",
        memory < 1024
        and min(shares) > (0.2 if world.is_short else 0.5)
        and set(load.outcomes()) == {OK},
    )


def _share_beside(flood: "subprocess.Popen[str]", load: Load) -> float:
    """The throughput beside the flood, as a part of that while the flood is stopped.

    By turns, because what else runs on this machine changes from second to second.
    """
    rates = {signal.SIGCONT: 0.0, signal.SIGSTOP: 0.0}
    for _ in range(3):
        for number in rates:
            flood.send_signal(number)
            time.sleep(0.5)  # What it sent before is still read.
            began = time.monotonic()
            time.sleep(0.7)
            rates[number] += load.rate("free", began, time.monotonic())
    return rates[signal.SIGCONT] / rates[signal.SIGSTOP]


@contextmanager
def _flood(world: World, node: Server, count: int, size: int) -> "Iterator[subprocess.Popen[str]]":
    arguments = (node.port, world.keys["streaming"], count, size)
    command = [sys.executable, "-m", "tests.faults.flood", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def _peak_mebibytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peak) // 1024

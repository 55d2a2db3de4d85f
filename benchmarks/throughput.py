"""Requests per second on one core, against nginx and against other gateways."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from benchmarks import databases, rivals, servers
from benchmarks.load import fire
from benchmarks.plan import CONNECTIONS, Plan
from benchmarks.processes import Server
from benchmarks.servers import LoadTarget
from benchmarks.table import medians, row
from benchmarks.tools import NotInstalled

RIVALS: dict[str, Callable[[Server], AbstractContextManager[LoadTarget]]] = {
    f"LiteLLM {rivals.LITELLM}": rivals.litellm,
    f"Portkey {rivals.PORTKEY}": rivals.portkey,
}


class Turn(NamedTuple):
    """The results of a server in one turn."""

    per_second: float
    cpu_us: float
    """Processor time per request, in microseconds."""
    database_us: float = 0.0
    """The same for PostgreSQL, on the other core."""

    def against(self, other: "Turn", digits: int = 2) -> str:
        """The ratio of throughput, and that of processor time, which varies less."""
        return (
            f"{self.per_second:.0f} / {other.per_second:.0f} = "
            f"{self.per_second / other.per_second:.{digits}f}; processor "
            f"{other.cpu_us:.0f} / {self.cpu_us:.0f} µs = {other.cpu_us / self.cpu_us:.{digits}f}"
        )


def take_turns(plan: Plan, *targets: LoadTarget) -> list[Turn]:
    """The medians of each target. They take turns, so that other programs disturb all alike."""
    database = databases.server()
    rounds = [
        [turn(target, plan.seconds, database) for target in targets] for _ in range(plan.rounds)
    ]
    return [Turn(*medians(turns)) for turns in zip(*rounds, strict=True)]


def turn(target: LoadTarget, seconds: int, database: Server | None = None) -> Turn:
    watched = [target.server, *([database] if database else [])]
    before = [server.cpu_seconds() for server in watched]
    load = fire(target, connections=CONNECTIONS, seconds=seconds).served
    used = [
        (server.cpu_seconds() - start) / load.requests * 1e6
        for server, start in zip(watched, before, strict=True)
    ]
    return Turn(load.per_second, *used)


def against_nginx(plan: Plan) -> None:
    with servers.instant_upstream() as upstream, servers.keyportal() as keyportal:
        target = keyportal.load_target(upstream)
        with servers.nginx_gateway(upstream, target.keys[0]) as nginx:
            ours, floor = take_turns(plan, target, nginx)
    row("limits of the key", " ".join(servers.LIMITS) or "none")
    row("requests/s on one core, against nginx", ours.against(floor, digits=3))
    if databases.IS_POSTGRESQL:
        row("PostgreSQL's own processor time, on another core", f"{ours.database_us:.0f} µs")


def against_rivals(plan: Plan) -> None:
    for name, start in RIVALS.items():
        label = f"requests/s on one core, against {name}"
        try:
            with servers.instant_upstream() as upstream, start(upstream) as rival:
                row(label, _against(rival, upstream, plan))
        except NotInstalled as reason:
            row(label, f"not measured: {reason}")


def _against(rival: LoadTarget, upstream: Server, plan: Plan) -> str:
    with servers.keyportal() as keyportal:
        target = keyportal.load_target(upstream)
        fire(rival, connections=CONNECTIONS, seconds=plan.seconds)  # Warm up.
        ours, theirs = take_turns(plan, target, rival)
    return ours.against(theirs, digits=1)

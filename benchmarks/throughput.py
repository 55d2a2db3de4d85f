"""Requests a second on one core, against nginx, the floor, and against other gateways."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from benchmarks import databases, rivals, servers
from benchmarks.load import fire
from benchmarks.plan import CONNECTIONS, Plan
from benchmarks.processes import Server
from benchmarks.servers import Door
from benchmarks.table import medians, row
from benchmarks.tools import NotInstalled

RIVALS: dict[str, Callable[[Server], AbstractContextManager[Door]]] = {
    f"LiteLLM {rivals.LITELLM}": rivals.litellm,
    f"Portkey {rivals.PORTKEY}": rivals.portkey,
}


class Turn(NamedTuple):
    """What a server did in one turn."""

    per_second: float
    cpu_us: float
    """Processor time a request."""
    database_us: float = 0.0
    """The same of PostgreSQL, on the other core."""

    def against(self, other: "Turn", digits: int = 2) -> str:
        """The ratio, and what the processor tells: that is the steadier of the two."""
        return (
            f"{self.per_second:.0f} / {other.per_second:.0f} = "
            f"{self.per_second / other.per_second:.{digits}f}; processor "
            f"{other.cpu_us:.0f} / {self.cpu_us:.0f} µs = {other.cpu_us / self.cpu_us:.{digits}f}"
        )


def in_turns(plan: Plan, *doors: Door) -> list[Turn]:
    """Each door's medians. In turns, so that what else the machine does meets all alike."""
    database = databases.server()
    rounds = [[turn(door, plan.seconds, database) for door in doors] for _ in range(plan.rounds)]
    return [Turn(*medians(turns)) for turns in zip(*rounds, strict=True)]


def turn(door: Door, seconds: int, database: Server | None = None) -> Turn:
    watched = [door.server, *([database] if database else [])]
    before = [server.cpu_seconds() for server in watched]
    load = fire(door, connections=CONNECTIONS, seconds=seconds).served
    used = [
        (server.cpu_seconds() - then) / load.requests * 1e6
        for server, then in zip(watched, before, strict=True)
    ]
    return Turn(load.per_second, *used)


def against_nginx(plan: Plan) -> None:
    with servers.instant_upstream() as upstream, servers.keyportal() as keyportal:
        door = keyportal.door(upstream)
        with servers.nginx_gateway(upstream, door.keys[0]) as nginx:
            ours, floor = in_turns(plan, door, nginx)
    row("limits of the key", " ".join(servers.LIMITS) or "none")
    row("requests/s on one core, against nginx", ours.against(floor, digits=3))
    if databases.IS_POSTGRESQL:
        row("PostgreSQL's own processor time, on another core", f"{ours.database_us:.0f} µs")


def against_rivals(plan: Plan) -> None:
    for name, start in RIVALS.items():
        what = f"requests/s on one core, against {name}"
        try:
            with servers.instant_upstream() as upstream, start(upstream) as rival:
                row(what, _against(rival, upstream, plan))
        except NotInstalled as reason:
            row(what, f"not measured: {reason}")


def _against(rival: Door, upstream: Server, plan: Plan) -> str:
    with servers.keyportal() as keyportal:
        door = keyportal.door(upstream)
        fire(rival, connections=CONNECTIONS, seconds=plan.seconds)  # It warms up slowly.
        ours, theirs = in_turns(plan, door, rival)
    return ours.against(theirs, digits=1)

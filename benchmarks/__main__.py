"""`python -m benchmarks [NAME ...]`: run all measurements, or these, and print a table."""

import argparse
import signal
import sys
from collections.abc import Callable

from benchmarks import (
    attack,
    databases,
    forward,
    hot_path,
    latency,
    many_keys,
    memory,
    streaming,
    table,
    throughput,
    workers,
)
from benchmarks.plan import Plan
from benchmarks.processes import Disturbance, require_cores

MEASUREMENTS: dict[str, Callable[[Plan], None]] = {
    "nginx": throughput.against_nginx,
    "rivals": throughput.against_rivals,
    "forward": forward.forward_auth,
    "lone": latency.lone_request,
    "streams": streaming.many_streams,
    "workers": workers.two_workers,
    "keys": many_keys.million_keys,
    "prompt": latency.long_prompt,
    "attack": attack.bad_keys,
    "memory": memory.worker_memory,
    "profile": hot_path.profile,
}


def main() -> int:
    names, plan = _parse_arguments()
    # As for Ctrl-C, so that started processes are stopped before this one ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    require_cores()
    database = databases.server()
    disturbance = Disturbance(*([database] if database else []))
    table.begin(databases.NAME)
    failures = [name for name in names if not _run_measurement(name, plan)]
    table.note(f"Other programs used {disturbance.share():.0%} of the machine during the run.")
    return 1 if failures else 0


def _parse_arguments() -> tuple[list[str], Plan]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of load in each turn")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=1_000_000, help="for a worker's memory")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MEASUREMENTS):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    plan = Plan(arguments.rounds, arguments.seconds, arguments.requests, arguments.streams)
    return [name for name in MEASUREMENTS if name in arguments.names or not arguments.names], plan


def _run_measurement(name: str, plan: Plan) -> bool:
    """Run one measurement. A failure becomes a row in the table, so that the others still run."""
    try:
        MEASUREMENTS[name](plan)
    except Exception as error:
        table.row(f"`{name}`", f"FAILED: {' '.join(str(error).split())[:300]}")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())

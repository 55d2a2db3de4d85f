"""`python -m benchmarks [NAME ...]`: take each measurement, or these, and print a table."""

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
    "memory": memory.of_a_worker,
    "profile": hot_path.profile,
}


def main() -> int:
    names, plan = _arguments()
    # As Ctrl-C does: what was started is ended before we are.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    require_cores()
    database = databases.server()
    disturbance = Disturbance(*([database] if database else []))
    table.begin(databases.NAME)
    failures = [name for name in names if not _is_taken(name, plan)]
    table.tell(f"Other programs took {disturbance.share():.0%} of the machine meanwhile.")
    return 1 if failures else 0


def _arguments() -> tuple[list[str], Plan]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of load, a turn")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=1_000_000, help="for a worker's memory")
    given = parser.parse_args()
    if unknown := set(given.names) - set(MEASUREMENTS):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    plan = Plan(given.rounds, given.seconds, given.requests, given.streams)
    return [name for name in MEASUREMENTS if name in given.names or not given.names], plan


def _is_taken(name: str, plan: Plan) -> bool:
    """One that fails is told in the table, and those after it are still taken."""
    try:
        MEASUREMENTS[name](plan)
    except Exception as error:
        table.row(f"`{name}`", f"FAILED: {' '.join(str(error).split())[:300]}")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())

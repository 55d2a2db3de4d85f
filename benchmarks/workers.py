"""Throughput of two workers against one."""

import os

from benchmarks import servers
from benchmarks.plan import Plan
from benchmarks.processes import OTHER_CORES, TESTED_CORE
from benchmarks.servers import keyportal
from benchmarks.table import row
from benchmarks.throughput import take_turns


def two_workers(plan: Plan) -> None:
    """With four cores the workers have two of them alone; with fewer they share one with the load.

    Then throughput can't double, and the processor time per request shows what the workers cost
    each other. If it stays the same, two free cores serve twice as many requests.
    """
    second, *rest = OTHER_CORES.split(",")
    with (
        servers.instant_upstream() as upstream,
        keyportal(TESTED_CORE) as one,
        keyportal(f"{TESTED_CORE},{second}", workers=2) as two,
    ):
        targets = one.load_target(upstream), two.load_target(upstream)
        single, double = take_turns(plan, *targets)
    shared = "" if len(rest) > 1 else f", on {os.cpu_count()} cores with the load on one of them"
    row(f"requests/s of 2 workers against 1{shared}", double.against(single))
    row(
        "the same, were both cores free: twice the processor's ratio",
        f"{2 * single.cpu_us / double.cpu_us:.2f}",
    )

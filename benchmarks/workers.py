"""Two workers against one."""

import os

from benchmarks import servers
from benchmarks.plan import Plan
from benchmarks.processes import OTHER_CORES, TESTED_CORE
from benchmarks.servers import keyportal
from benchmarks.table import row
from benchmarks.throughput import in_turns


def two_workers(plan: Plan) -> None:
    """With four cores the two have two for themselves; with fewer they share one with the load.

    Then the processor time of a request tells what throughput can't: what the two cost each
    other. Where a request costs no more, two cores serve twice as many.
    """
    second, *rest = OTHER_CORES.split(",")
    with (
        servers.instant_upstream() as upstream,
        keyportal(TESTED_CORE) as one,
        keyportal(f"{TESTED_CORE},{second}", workers=2) as two,
    ):
        doors = one.door(upstream), two.door(upstream)
        single, double = in_turns(plan, *doors)
    shared = "" if len(rest) > 1 else f", on {os.cpu_count()} cores with the load on one of them"
    row(f"requests/s of 2 workers against 1{shared}", double.against(single))
    row(
        "the same, were both cores free: twice the processor's ratio",
        f"{2 * single.cpu_us / double.cpu_us:.2f}",
    )

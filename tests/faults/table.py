"""All faults, what they did before, and the table that is printed."""

import os
import time
import traceback
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tests.faults import database_faults, process_faults, setup_faults
from tests.faults.world import Result, World


class Fault(NamedTuple):
    """One row of the table."""

    title: str
    before: str
    """What it did before Keyportal was made to bear it, measured with the same kind of load."""
    cause: Callable[[World], Result]


FAULTS = {
    "vanish": Fault(
        "a node vanishes between BEGIN and COMMIT",
        "all keys 503 for 103 s, until somebody intervened",
        database_faults.node_vanishes,
    ),
    "lock": Fault(
        "one row of the counters is locked",
        "keys without limits from 140/s to 0 to 90/s",
        database_faults.counter_is_locked,
    ),
    "silent": Fault(
        "database sessions go silent",
        "503 until a restart",
        database_faults.session_goes_silent,
    ),
    "gone": Fault(
        "PostgreSQL is gone",
        "pages hang up to 43 s, then up to 8 get 500",
        database_faults.database_is_gone,
    ),
    "pooler": Fault(
        "pgbouncer in transaction mode",
        "refused",
        database_faults.pooler_is_between,
    ),
    "clock": Fault(
        "a node's clock is two hours ahead",
        "600 admitted of 300",
        process_faults.clock_is_ahead,
    ),
    "replace": Fault(
        "nodes are replaced behind nginx (TERM, HUP)",
        "1 to 2 calls lost each",
        process_faults.nodes_are_replaced,
    ),
    "kill": Fault(
        "kill -9 of a node while streams run",
        "tokens of running calls lost whole",
        process_faults.node_is_killed,
    ),
    "bodies": Fault(
        "large bodies of one key",
        "3,882/s to 1/s, a worker at 4 GiB",
        process_faults.bodies_fill_the_memory,
    ),
    "settings": Fault(
        "wrong settings, a corrupt SQLite file",
        "traceback, or silence",
        setup_faults.settings_are_wrong,
    ),
    "credentials": Fault(
        "the keys of credentials are lost",
        "404 model_not_found",
        setup_faults.credential_keys_are_lost,
    ),
    # Last, because it deletes a key.
    "standby": Fault(
        "the database is a hot standby that lags",
        "a deleted key is served",
        database_faults.standby_lags,
    ),
}


def run(world: World, names: Iterable[str]) -> list[str]:
    """Cause these faults, and print a row for each. Returns the names of those that don't hold."""
    print(f"{os.cpu_count()} processors. Two nodes of two workers.\n")  # noqa: T201
    print("| Fault | Before | Now | Holds | Took |\n|---|---|---|---|---|", flush=True)  # noqa: T201
    failed = []
    for name in names:
        fault, began = FAULTS[name], time.monotonic()
        try:
            result = fault.cause(world)
        except Exception as error:
            traceback.print_exc()
            result = Result(f"{type(error).__name__}: {error}", False)
        seconds = time.monotonic() - began
        print(  # noqa: T201
            f"| {fault.title} | {fault.before} | {result.figures} "
            f"| {'yes' if result.holds else 'NO'} | {seconds:.0f} s |",
            flush=True,
        )
        failed += [] if result.holds else [name]
    return failed

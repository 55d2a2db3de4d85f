"""Memory of one worker: after its start, and after very many requests."""

import time

from benchmarks import servers
from benchmarks.load import fire
from benchmarks.plan import CONNECTIONS, Plan
from benchmarks.table import row

WARM_SECONDS = 3
SLICE_SECONDS = 10
MAX_SECONDS = 3600


def worker_memory(plan: Plan) -> None:
    """Also measured when warm, because what the first calls load once is not growth."""
    with servers.instant_upstream() as upstream, servers.keyportal() as keyportal:
        target = keyportal.load_target(upstream)
        at_rest = target.server.resident_bytes()
        row("memory of a worker at rest, after its start", _megabytes(at_rest))

        def load(seconds: int) -> int:
            return fire(target, connections=CONNECTIONS, seconds=seconds).served.requests

        served = load(WARM_SECONDS)
        warm = target.server.resident_bytes()
        _report(served, warm, at_rest)
        deadline = time.monotonic() + MAX_SECONDS
        while served < plan.requests and time.monotonic() < deadline:
            served += load(SLICE_SECONDS)
        now = target.server.resident_bytes()
        _report(served, now, at_rest)
        row("of that, since it was warm", _grown(now, warm))


def _report(served: int, now: int, at_rest: int) -> None:
    row(f"memory of it after {served:,} requests", f"{_megabytes(now)}, {_grown(now, at_rest)}")


def _grown(now: int, then: int) -> str:
    return f"{100 * (now / then - 1):+.1f} %"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"

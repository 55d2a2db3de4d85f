"""What one request alone waits for us."""

from benchmarks import servers
from benchmarks.load import fire
from benchmarks.plan import Plan
from benchmarks.servers import Door
from benchmarks.table import median, row


def lone_request(plan: Plan) -> None:
    """One at a time, one after the other, through us and straight to the upstream."""
    with servers.instant_upstream() as upstream, servers.keyportal() as keyportal:
        door, direct = keyportal.door(upstream), Door(upstream)
        added = [_median_ms(door, plan) - _median_ms(direct, plan) for _ in range(plan.rounds)]
    row("added to a lone request, median", f"{median(added):.2f} ms")


def long_prompt(plan: Plan) -> None:
    with servers.instant_upstream() as upstream, servers.keyportal() as keyportal:
        door = keyportal.door(upstream)
        more = [
            _median_ms(door, plan, 2**20) - _median_ms(door, plan, 2**10)
            for _ in range(plan.rounds)
        ]
    row("1 MiB prompt against 1 KiB, median", f"{median(more):.2f} ms more")


def _median_ms(door: Door, plan: Plan, prompt: int = 2**10) -> float:
    seconds = max(1, plan.seconds // 2)
    return fire(door, connections=1, seconds=seconds, prompt=prompt).served.median_ms

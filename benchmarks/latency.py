"""The latency that Keyportal adds to a single request."""

from benchmarks import servers
from benchmarks.load import fire
from benchmarks.plan import Plan
from benchmarks.servers import LoadTarget
from benchmarks.table import median, row


def lone_request(plan: Plan) -> None:
    """Requests one after the other, through Keyportal and directly to the upstream."""
    with servers.instant_upstream() as upstream, servers.keyportal() as keyportal:
        target, direct = keyportal.load_target(upstream), LoadTarget(upstream)
        added = [_median_ms(target, plan) - _median_ms(direct, plan) for _ in range(plan.rounds)]
    row("added to a lone request, median", f"{median(added):.2f} ms")


def long_prompt(plan: Plan) -> None:
    with servers.instant_upstream() as upstream, servers.keyportal() as keyportal:
        target = keyportal.load_target(upstream)
        more = [
            _median_ms(target, plan, 2**20) - _median_ms(target, plan, 2**10)
            for _ in range(plan.rounds)
        ]
    row("1 MiB prompt against 1 KiB, median", f"{median(more):.2f} ms more")


def _median_ms(target: LoadTarget, plan: Plan, prompt: int = 2**10) -> float:
    seconds = max(1, plan.seconds // 2)
    return fire(target, connections=1, seconds=seconds, prompt=prompt).served.median_ms

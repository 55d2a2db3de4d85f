"""The cost of a verdict alone: `/auth/verify` against the relay, on the same server."""

from benchmarks import servers
from benchmarks.plan import Plan
from benchmarks.table import row
from benchmarks.throughput import take_turns


def forward_auth(plan: Plan) -> None:
    """Both check the same key and count the request; the relay also sends it to the upstream."""
    with servers.instant_upstream() as upstream, servers.keyportal() as keyportal:
        relay = keyportal.load_target(upstream)
        verify = relay._replace(request_line="GET /auth/verify")
        forward, relayed = take_turns(plan, verify, relay)
    row("verifications/s on one core, against calls/s", forward.against(relayed))

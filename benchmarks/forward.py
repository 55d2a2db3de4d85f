"""How much a verdict alone costs: `/auth/verify` against the relay, on the same server."""

from benchmarks import servers
from benchmarks.plan import Plan
from benchmarks.table import row
from benchmarks.throughput import in_turns


def forward_auth(plan: Plan) -> None:
    """Both judge the same key and count it; one of them relays the call as well."""
    with servers.instant_upstream() as upstream, servers.keyportal() as keyportal:
        relay = keyportal.door(upstream)
        verify = relay._replace(asks="GET /auth/verify")
        forward, relayed = in_turns(plan, verify, relay)
    row("verifications/s on one core, against calls/s", forward.against(relayed))

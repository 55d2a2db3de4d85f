"""The operators' model servers: what they answer, and what calls of all workers met."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from keyportal.catalog.credentials import CredentialUnreadable
from keyportal.catalog.models import BUILT_IN_URL, Route, Upstream
from keyportal.catalog.servers.discovery import BareList, DiscoveryFailed, model_ids
from keyportal.catalog.servers.health import Health, ServerHealth
from keyportal.server.doctor.findings import Finding, ok, problem


def upstreams() -> Iterator[Finding]:
    """Ask each of the operators' model servers for its models, with the credential of calls."""
    servers = list(Upstream.objects.filter(team=None, is_active=True).order_by("name"))
    wanted: dict[int, set[str]] = {server.pk: set() for server in servers}
    for route in Route.objects.usable().filter(upstream__team=None):
        wanted[route.upstream_id].add(route.upstream_model)
    with ThreadPoolExecutor(8) as threads:
        yield from threads.map(lambda server: _ask(server, wanted[server.pk]), servers)
    health = Health.read()
    for server in servers:
        if (seen := health.of_server(server.fingerprint)).failure_count:
            yield problem(f"model server {server.name}", _as_seen(seen))


def _as_seen(health: ServerHealth) -> str:
    where = f" {health.workers}" if health.workers else " the worker"
    return (
        f"Calls of{where} fail since {health.since:%Y-%m-%d %H:%M:%S} UTC: "
        f"it {health.last_failures}. Read the log of their hosts."
    )


def _ask(server: Upstream, wanted: set[str]) -> Finding:
    name = f"model server {server.name}"
    if server.base_url == BUILT_IN_URL:
        return ok(name, "It is the built-in demo model.")
    try:
        listed = set(model_ids(server))
    except CredentialUnreadable:
        text = (
            "Its credential can't be decrypted. Add the lost key to KEYPORTAL_CREDENTIAL_KEYS, or "
            f"store it again: `manage.py add_upstream {server.name} URL --credential-env NAME`."
        )
        return problem(name, text)
    except BareList as error:
        listed = set(error.ids)
    except DiscoveryFailed as error:
        return problem(name, f"{error} Check its address and credential, and that it runs.")
    if missing := sorted(wanted - listed):
        text = f"It does not list {', '.join(missing)}, to which routes lead. Correct the routes."
        return problem(name, text)
    return ok(name, f"It accepts the credential and lists {len(listed)} models.")

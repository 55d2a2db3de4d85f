"""`python -m tests.clients [NAME ...]`: run all clients and model servers, or these.

Each program is installed in a folder of its own under `var/tools/`. After a complete run the tables
in docs/clients.md are written anew.
"""

import argparse
import re
import sys
from collections.abc import Iterator

from benchmarks.processes import ROOT
from benchmarks.servers import OWNER, TEAM, Keyportal, keyportal
from tests.clients import client_runs, server_runs
from tests.clients.programs import PROGRAMS
from tests.clients.servers import SERVERS
from tests.support import fake_upstream

PAGE = ROOT / "docs" / "clients.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names
    with fake_upstream.running() as upstream, keyportal() as portal:
        clients = dict(_run_clients(portal, upstream.url, names))
        servers = dict(_run_servers(portal, upstream.url, names))
    if not names:
        _write_table("clients", client_runs.table(clients))
        _write_table("servers", server_runs.table(servers))
    problems = [*clients.values(), *(outcome.problem for outcome in servers.values())]
    return 1 if any(problems) else 0


def _run_clients(
    portal: Keyportal, upstream_url: str, names: list[str]
) -> Iterator[tuple[str, str]]:
    """The name of each client, and what went wrong; empty if it works."""
    portal.manage("add_upstream", "fake", upstream_url)
    model = f"{TEAM}/tiny"
    route = ("--upstream", "fake", "--upstream-model", "normal")
    portal.manage("add_model", model, "--team", TEAM, *route)
    values = {"url": portal.server.url, "key": _create_key(portal, "clients"), "model": model}
    for program in PROGRAMS:
        if not names or program.name in names:
            problem = client_runs.problem(program, values)
            print(f"{program.name} {program.version}: {problem or 'works'}", flush=True)  # noqa: T201
            yield program.name, problem


def _run_servers(
    portal: Keyportal, upstream_url: str, names: list[str]
) -> Iterator[tuple[str, server_runs.Outcome]]:
    key = _create_key(portal, "servers")
    for server in SERVERS:
        if not names or server.name in names:
            outcome = server_runs.run(server, portal, key, upstream_url)
            print(f"{server.name} {server.version}: {outcome.problem or 'works'}", flush=True)  # noqa: T201
            yield server.name, outcome


def _create_key(portal: Keyportal, name: str) -> str:
    return portal.manage("keys", "create", "--team", TEAM, "--owner", OWNER, "--name", name)


def _write_table(name: str, rows: str) -> None:
    """Replace what stands between the two comments with this name in the page."""
    between = re.compile(f"(<!-- {name} -->\n).*(<!-- end of {name} -->)", re.DOTALL)
    PAGE.write_text(between.sub(lambda match: match[1] + rows + match[2], PAGE.read_text()))


if __name__ == "__main__":
    sys.exit(main())

"""No call is lost while processes are replaced behind the nginx configuration that we hand out."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.load import LoadGenerator
from tests.support.nginx import nginx, nodes_config
from tests.support.server import CHAT, BareServer, Server, chat_body, head, wait_until

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
OwnServer = Callable[..., Server]


@contextmanager
def load_balancer(nodes: list[Server], folder: Path) -> Iterator[Server]:
    """Our configuration over plain HTTP; times are a quarter, because the test must be short."""
    front = BareServer(folder)
    ports = [node.port for node in nodes]
    configuration = nodes_config(folder, ports, plain_port=front.port).replace(
        "keepalive_timeout 4s;", "keepalive_timeout 1s;"
    )
    with nginx(f"keepalive_requests 1000000; {configuration}", folder):
        yield front


def replace_workers(node: Server) -> None:
    """HUP, until all workers are new ones."""
    old = node.workers()
    node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: node.workers() and not set(old) & set(node.workers()))


def test_no_call_is_lost_while_nodes_are_replaced(
    own_server: OwnServer, issue: Issue, alice: User, model: ServedModel, tmp_path: Path
) -> None:
    nodes = [own_server(workers=2, KEYPORTAL_DRAIN_SECONDS="2") for _ in range(2)]
    body = json.dumps(chat_body(model.name)).encode()
    call = head(f"POST {CHAT}", issue(alice)[1], len(body)) + body
    with load_balancer(nodes, tmp_path) as front:
        load = LoadGenerator(front, call)
        with load.running():
            for _ in range(3):
                replace_workers(nodes[0])
            for node in nodes:
                assert node.stop() == 0
                node.start()
            count = len(load.results)
            wait_until(lambda: len(load.results) > count + 100)
    statuses = [reply.status for _, reply in load.results]
    assert len(statuses) > 300
    assert set(statuses) == {200}

"""The nginx configuration for several nodes that we hand out, in a real nginx.

Only its addresses and its certificate are changed.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.fake_upstream import event, scripted
from tests.support.nginx import nginx, nodes_config
from tests.support.proxy_clients import ProxyClient
from tests.support.server import CHAT, Server, chat_body, free_port

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Balance = Callable[[int, int], ProxyClient]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def balance(tmp_path: Path) -> Iterator[Balance]:
    """Start nginx in front of two nodes on these ports: `balance(live.port, 8001)`."""
    with ExitStack() as running:

        def balance(first: int, second: int) -> ProxyClient:
            port = free_port()
            configuration = nodes_config(tmp_path, [first, second], port=port)
            running.enter_context(nginx(configuration, tmp_path))
            return ProxyClient(port, tmp_path / "certificate.pem")

        yield balance


def _port(url: str) -> int:
    return urlsplit(url).port or 0


def test_no_call_is_lost_while_one_node_is_down(
    balance: Balance, live: Server, model: ServedModel, alice: User, issue: Issue
) -> None:
    _, key = issue(alice)
    door = balance(live.port, free_port())
    assert {door.chat(key, model.name).status for _ in range(20)} == {200}


def test_a_post_that_a_node_has_read_is_never_sent_to_the_other_one(balance: Balance) -> None:
    """It would be counted twice, and the model would answer twice."""
    with (
        scripted(lambda *_: b"") as (first, requests),
        scripted(lambda *_: b"") as (second, more_requests),
    ):
        door = balance(_port(first), _port(second))
        assert door.chat("some-key").status == 502
        assert len(requests) + len(more_requests) == 1


def test_a_stream_is_passed_on_at_once(
    balance: Balance,
    live: Server,
    fake: FakeUpstream,
    serve_model: Callable[..., str],
    alice: User,
    issue: Issue,
) -> None:
    _, key = issue(alice)
    body = json.dumps(chat_body(serve_model("wait"), stream=True)).encode()
    with closing(balance(live.port, live.port).connect()) as client:
        client.request("POST", CHAT, body, {"Authorization": f"Bearer {key}"})
        answer = client.getresponse()
        assert answer.readline() + answer.readline() == event(0)
        fake.released.set()
        assert answer.read() == event(1) + b"data: [DONE]\n\n"


def test_nodes_learn_the_address_and_scheme_of_the_client(balance: Balance) -> None:
    with scripted(lambda *_: OK) as (url, requests):
        door = balance(_port(url), _port(url))
        assert door.request("GET", "/v1/models", "some-key").status == 200
        (request,) = requests
        assert b"\r\nX-Forwarded-For: 127.0.0.2\r\n" in request
        assert b"\r\nX-Forwarded-Proto: https\r\n" in request
        assert b"\r\nconnection:" not in request.lower()  # It may be used again.

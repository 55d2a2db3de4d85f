"""Attack: the name of a team's server resolves to an address inside, once it is stored."""

import asyncio
import socket
import threading
from typing import Any

import pytest
from pytest_django import Settings

from keyportal.catalog.headers import ServerHeaders
from keyportal.catalog.servers.team_servers import AllowedServers
from keyportal.catalog.snapshot import Target
from keyportal.gateway.endpoints import Endpoint
from keyportal.gateway.errors import UpstreamFailed
from keyportal.gateway.http_client import client as module
from keyportal.gateway.http_client import happy_eyeballs
from keyportal.gateway.http_client.client import Client, parse_base_url
from keyportal.gateway.relay.relay import Relay, RelayRequest, check_address
from tests.support.scripted_server import OK, ScriptedServer, answering

URL = "https://models.example.com/v1"
HEADERS = ServerHeaders(((b"authorization", b"Bearer a-credential"),))
TARGET = Target("u", URL, HEADERS, "m", 1, connect_timeout=60, read_timeout=60)


@pytest.fixture(autouse=True)
def public(settings: Settings) -> None:
    settings.TEAM_SERVERS = AllowedServers(is_public=True)


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses to which a connection was tried; none can be opened."""
    tried: list[str] = []

    async def connect(addresses: list[str], _port: int) -> Any:
        tried.extend(addresses)
        raise OSError("not here")

    monkeypatch.setattr(happy_eyeballs, "connect", connect)
    return tried


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return [(0, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]

    async def in_loop(*_: Any, **__: Any) -> list[Any]:
        return getaddrinfo()

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", in_loop)


def call(target: Target) -> str:
    """What the log says of the failed call."""

    async def call() -> None:
        relay = Relay()
        try:
            request = RelayRequest(Endpoint("/chat/completions"), [], "req_1", b"application/json")
            await relay.send(target, request, b"{}")
        finally:
            relay.close()

    with pytest.raises(UpstreamFailed) as caught:
        asyncio.run(call())
    return caught.value.cause


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.7"],
        ["100.64.0.1"],
        ["::ffff:127.0.0.1"],
        ["8.8.8.8", "10.0.0.7"],  # The one that answers first would get the call.
        ["2606:4700:4700::1111", "::1"],
    ],
)
def test_no_connection_is_opened_to_an_address_inside(
    addresses: list[str], connected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, *addresses)
    cause = call(TARGET._replace(team_id=7))
    assert "a team's server may not have" in cause
    assert not connected
    assert "a-credential" not in cause


def test_public_address_is_tried_and_operators_have_any(
    connected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, "8.8.8.8")
    call(TARGET._replace(team_id=7))
    resolve_to(monkeypatch, "10.0.0.7")
    call(TARGET)
    assert connected == ["8.8.8.8", "10.0.0.7"]


def test_no_call_passes_when_the_setting_is_off(
    settings: Settings, connected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TEAM_SERVERS = AllowedServers()
    resolve_to(monkeypatch, "8.8.8.8")
    call(TARGET._replace(team_id=7))
    assert not connected


def test_servers_of_others_share_no_connection() -> None:
    """Attack: a team's server gets a call on a connection that was opened without its check."""
    origins = {parse_base_url(URL, owner=owner).origin for owner in (0, 7, 8)}
    assert len(origins) == 3


def test_slow_names_of_teams_keep_no_thread_from_the_operators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name of an operators' server is resolved while all threads for teams wait."""
    release = threading.Event()

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        if host.startswith("slow"):
            release.wait(60)
        return [(0, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def work() -> list[str]:
        client = Client(check_address)
        slow = parse_base_url("https://slow.example.com", owner=7).origin
        tasks = [asyncio.create_task(client._resolve(slow)) for _ in range(20)]
        try:
            return await asyncio.wait_for(client._resolve(parse_base_url(URL).origin), 60)
        finally:
            release.set()
            await asyncio.gather(*tasks)
            client.close()

    assert asyncio.run(work()) == ["8.8.8.8"]


def test_memory_does_not_grow_with_names_of_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: an admin gives a team's server one name after the other."""
    monkeypatch.setattr(module, "MAX_WORKING", 3)

    async def run() -> None:
        async with ScriptedServer(answering(OK)) as address:
            client = Client()
            for owner in (1, 2, 3, 1, 4, 5):
                to = address._replace(origin=address.origin._replace(owner=owner))
                response = await client.send(
                    to, "/x", [], b"", connect_timeout=60, first_byte_timeout=60, read_timeout=60
                )
                response.close()
            assert [origin.owner for origin in vars(client)["_working"]] == [1, 4, 5]
            client.close()

    asyncio.run(run())

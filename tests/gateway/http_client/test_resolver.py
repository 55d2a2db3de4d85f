"""A host name that leads to a link-local address is refused when it is looked up."""

import asyncio
import socket
from typing import Any

import pytest

from keyportal.catalog.headers import ServerHeaders
from keyportal.catalog.snapshot import Target
from keyportal.gateway.endpoints import Endpoint
from keyportal.gateway.errors import UpstreamFailed
from keyportal.gateway.http_client.client import Client
from keyportal.gateway.http_client.messages import Origin
from keyportal.gateway.relay.relay import Relay, RelayRequest, check_address

PRIVATE, METADATA = "10.0.0.7", "169.254.169.254"


def answers(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Resolve every name to these addresses."""

    async def getaddrinfo(*_args: Any, **_more: Any) -> list[Any]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 80, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))
            for address in addresses
        ]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


def resolve() -> list[str]:
    async def ask() -> list[str]:
        return await Client(check_address)._resolve(
            Origin(is_tls=False, host="models.example", port=80)
        )

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "addresses",
    [
        [METADATA],
        [PRIVATE, METADATA],
        ["169.254.0.1"],
        ["fe80::1"],
        ["::ffff:169.254.169.254"],
        ["2001:db8::1", "fe80::1"],
    ],
)
def test_a_name_that_leads_to_a_link_local_address_is_refused(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, *addresses)
    with pytest.raises(OSError, match="link-local"):
        resolve()


def test_only_some_of_many_addresses_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, *[f"10.0.{number >> 8}.{number & 255}" for number in range(4000)])
    assert len(resolve()) == 20


@pytest.mark.parametrize("address", [PRIVATE, "127.0.0.1", "::1", "192.0.2.1", "fd00::1"])
def test_any_other_address_is_where_model_servers_live(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, address)
    assert resolve() == [address]


def ask(base_url: str) -> None:
    headers = ServerHeaders(((b"authorization", b"Bearer a-credential"),))
    target = Target("u", base_url, headers, "m", 1, connect_timeout=60, read_timeout=60)

    async def ask() -> None:
        relay = Relay()
        try:
            request = RelayRequest(Endpoint("/chat/completions"), [], "req_1", b"application/json")
            await relay.send(target, request, b"{}")
        finally:
            relay.close()

    asyncio.run(ask())


# Attack: as a number, the address passes a check of the URL's text.
@pytest.mark.parametrize("host", ["models.example", "0xa9fea9fe"])
def test_a_call_to_such_a_name_fails_as_any_upstream_and_tells_the_caller_no_address(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, METADATA)
    with pytest.raises(UpstreamFailed) as caught:
        ask(f"http://{host}/v1")
    assert host not in str(caught.value)
    assert "link-local" in caught.value.cause  # For the log.
    assert "a-credential" not in caught.value.cause


def test_a_name_that_leads_nowhere_fails_as_any_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_args: object, **_more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(UpstreamFailed):
        ask("http://models.example/v1")

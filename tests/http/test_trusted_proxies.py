"""The client of a request: X-Forwarded-* is trusted from the configured networks only."""

import ipaddress
from collections.abc import Callable

import pytest
from asgiref.sync import async_to_sync
from pytest_django import Settings

from keyportal.http.trusted_proxies import TrustedProxies
from keyportal.http.types import ASGIApp, Receive, Scope, Send

Ask = Callable[..., tuple[str, str]]
NETWORKS = ("10.0.0.0/8", "127.0.0.1", "fd00::/8")


@pytest.fixture
def ask(settings: Settings) -> Ask:
    """The client's address and the scheme that the application behind the middleware sees."""
    settings.TRUSTED_PROXIES = tuple(ipaddress.ip_network(text) for text in NETWORKS)

    def ask(peer: str, *headers: tuple[str, str], kind: str = "http") -> tuple[str, str]:
        seen: list[Scope] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope)

        scope: Scope = {
            "type": kind,
            "scheme": "http",
            "client": (peer, 40000) if peer else None,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        }
        application_: ASGIApp = TrustedProxies(application)
        async_to_sync(application_)(scope, None, None)  # type: ignore[arg-type]  # not called
        client = seen[0]["client"]
        return (client[0] if client else "", seen[0]["scheme"])

    return ask


def forwarded_for(*chain: str) -> tuple[str, str]:
    return ("x-forwarded-for", ", ".join(chain))


@pytest.mark.parametrize("peer", ["198.51.100.9", "11.0.0.1", "2001:db8::1", "", "not an address"])
def test_headers_of_an_untrusted_peer_are_ignored(ask: Ask, peer: str) -> None:
    headers = (forwarded_for("192.0.2.1"), ("x-forwarded-proto", "https"))
    assert ask(peer, *headers) == (peer, "http")


@pytest.mark.parametrize("peer", ["10.1.2.3", "127.0.0.1", "fd00::5"])
def test_headers_of_a_trusted_peer_are_used(ask: Ask, peer: str) -> None:
    headers = (forwarded_for("192.0.2.1"), ("x-forwarded-proto", "https"))
    assert ask(peer, *headers) == ("192.0.2.1", "https")


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1", "10.9.9.9"], "192.0.2.1"),
        (["203.0.113.66", "192.0.2.1", "10.9.9.9"], "192.0.2.1"),
        (["10.0.0.66", "192.0.2.1"], "192.0.2.1"),
        (["10.5.5.5", "10.9.9.9"], "10.5.5.5"),
        (["2001:db8::7", "fd00::1"], "2001:db8::7"),
    ],
    ids=[
        "the client alone",
        "a second proxy",
        "an address that the client made up",
        "a trusted address that the client made up",
        "only proxies",
        "IPv6",
    ],
)
def test_the_rightmost_untrusted_address_is_the_client(
    ask: Ask, chain: list[str], client: str
) -> None:
    assert ask("10.0.0.1", forwarded_for(*chain))[0] == client


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (["unknown"], "10.0.0.1"),
        (["192.0.2.1", "garbage"], "10.0.0.1"),
        (["192.0.2.1", "garbage", "10.9.9.9"], "10.9.9.9"),
        (["192.0.2.1:4711"], "10.0.0.1"),
        (["", " ", ","], "10.0.0.1"),
        (["\xe4"], "10.0.0.1"),
        (["1" * 5000], "10.0.0.1"),
    ],
)
def test_invalid_address_ends_the_chain(ask: Ask, chain: list[str], client: str) -> None:
    assert ask("10.0.0.1", forwarded_for(*chain))[0] == client


def test_a_repeated_header_is_one_list(ask: Ask) -> None:
    headers = (forwarded_for("203.0.113.66"), forwarded_for("192.0.2.1"))
    assert ask("10.0.0.1", *headers)[0] == "192.0.2.1"


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [("https", "https"), ("http, https", "https"), ("https, http", "http"), ("ftp", "http")],
)
def test_scheme_is_the_one_of_the_nearest_proxy(ask: Ask, proto: str, scheme: str) -> None:
    assert ask("10.0.0.1", ("x-forwarded-proto", proto))[1] == scheme


def test_other_forwarding_headers_are_ignored(ask: Ask) -> None:
    headers = [("forwarded", "for=192.0.2.1"), ("x-real-ip", "192.0.2.1")]
    assert ask("10.0.0.1", *headers) == ("10.0.0.1", "http")


def test_without_trusted_networks_headers_are_ignored(ask: Ask, settings: Settings) -> None:
    settings.TRUSTED_PROXIES = ()
    assert ask("127.0.0.1", forwarded_for("192.0.2.1"))[0] == "127.0.0.1"


def test_lifespan_scope_is_not_changed(ask: Ask) -> None:
    assert ask("10.0.0.1", forwarded_for("192.0.2.1"), kind="lifespan")[0] == "10.0.0.1"


@pytest.mark.parametrize("peer", ["::ffff:127.0.0.1", "::ffff:10.1.2.3", "::FFFF:7f00:1"])
def test_ipv4_mapped_peer_is_trusted_like_its_ipv4_address(ask: Ask, peer: str) -> None:
    assert ask(peer, forwarded_for("192.0.2.1"))[0] == "192.0.2.1"
    assert ask(peer, forwarded_for("192.0.2.1", "::ffff:10.9.9.9"))[0] == "192.0.2.1"


@pytest.mark.parametrize("networks", [(), ("10.0.0.0/8",)])
def test_ipv4_mapped_address_is_unmapped(
    ask: Ask, settings: Settings, networks: tuple[str, ...]
) -> None:
    settings.TRUSTED_PROXIES = tuple(ipaddress.ip_network(text) for text in networks)
    assert ask("::ffff:192.0.2.1")[0] == "192.0.2.1"
    assert ask("2001:db8::1")[0] == "2001:db8::1"
    assert ask("fe80::1%eth0")[0] == "fe80::1%eth0"
    assert ask("::ffff:what")[0] == "::ffff:what"
    if networks:
        assert ask("10.0.0.1", forwarded_for("::ffff:192.0.2.1"))[0] == "192.0.2.1"

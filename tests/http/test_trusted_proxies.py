"""The client of a request: X-Forwarded-* is trusted from the configured networks only."""

import asyncio
import ipaddress
import time
from collections.abc import Callable

import pytest
from pytest_django import Settings

from keyportal.http.trusted_proxies import TrustedProxies
from keyportal.http.types import Receive, Scope, Send
from tests.support.cases import case

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

        async def run() -> None:
            await TrustedProxies(application)(scope, None, None)  # type: ignore[arg-type]  # not called

        asyncio.run(run())
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


def test_the_rightmost_untrusted_address_is_the_client(ask: Ask) -> None:
    cases: list[tuple[list[str], str]] = [
        (["192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1", "10.9.9.9"], "192.0.2.1"),
        (["203.0.113.66", "192.0.2.1", "10.9.9.9"], "192.0.2.1"),
        (["10.0.0.66", "192.0.2.1"], "192.0.2.1"),
        (["10.5.5.5", "10.9.9.9"], "10.5.5.5"),
        (["2001:db8::7", "fd00::1"], "2001:db8::7"),
    ]
    for chain, client in cases:
        with case(chain, client):
            assert ask("10.0.0.1", forwarded_for(*chain))[0] == client


@pytest.mark.parametrize(
    ("text", "client"),
    [
        ("192.0.2.1:4711", "192.0.2.1"),
        ("192.0.2.1:", "192.0.2.1"),
        ('"192.0.2.1:4711"', "192.0.2.1"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ('"[2001:db8::7]:_https"', "2001:db8::7"),
        ("2001:DB8:0:0::7", "2001:db8::7"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::FFFF:c000:201]:4711", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:443", "fe80::1"),
        ("[::1]", "::1"),
        ("[10.9.9.9]", "10.9.9.9"),
    ],
)
def test_address_is_read_without_port_brackets_quotes_and_zone(
    ask: Ask, text: str, client: str
) -> None:
    assert ask("10.0.0.1", forwarded_for(text))[0] == client


@pytest.mark.parametrize("text", ["10.9.9.9:80", "[fd00::1]:443", "fd00::1%eth0"])
def test_a_trusted_proxy_with_a_port_is_still_a_proxy(ask: Ask, text: str) -> None:
    assert ask("10.0.0.1", forwarded_for("192.0.2.1", text))[0] == "192.0.2.1"


@pytest.mark.parametrize(
    "chain",
    [
        ["unknown"],
        ["192.0.2.1", "garbage"],
        ["192.0.2.1", "garbage", "10.9.9.9"],
        ["10.0.0.66", "_hidden"],
        ["192.0.2.1:80:80"],
        ["192.0.2.1 10.0.0.66"],
        ["[192.0.2.1"],
        ["[::1]x"],
        ["[]"],
        ["[]:80"],
        ["010.0.0.1"],
        ["192.0.2"],
        [""],
        ["", " ", ","],
        ["\xe4"],
        ["\u00b2.0.0.1".encode().decode("latin-1")],
        ["1" * 5000],
    ],
)
def test_address_that_cannot_be_read_is_unknown(ask: Ask, chain: list[str]) -> None:
    """Attack: if it were that of the proxy, a key for 10.0.0.0/8 would work from everywhere."""
    assert ask("10.0.0.1", forwarded_for(*chain))[0] == ""


def test_without_the_header_the_proxy_is_the_client(ask: Ask) -> None:
    """So a program on the proxy's own machine can call directly."""
    assert ask("10.0.0.1")[0] == "10.0.0.1"


def test_a_repeated_header_is_one_list(ask: Ask) -> None:
    headers = (forwarded_for("203.0.113.66"), forwarded_for("192.0.2.1"))
    assert ask("10.0.0.1", *headers)[0] == "192.0.2.1"


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("http, https", "https"),
        ("http,\tHttps ,", "https"),
        ("https, http", "http"),
        ("ftp", "http"),
        ("https, ftp", "http"),
        ("", "http"),
    ],
)
def test_scheme_is_the_one_of_the_nearest_proxy(ask: Ask, proto: str, scheme: str) -> None:
    assert ask("10.0.0.1", ("x-forwarded-proto", proto))[1] == scheme


def test_other_forwarding_headers_are_ignored(ask: Ask) -> None:
    headers = [("forwarded", "for=192.0.2.1"), ("x-real-ip", "192.0.2.1")]
    assert ask("10.0.0.1", *headers) == ("10.0.0.1", "http")


# Forwarded.


@pytest.fixture
def forwarded(ask: Ask, settings: Settings) -> Callable[..., tuple[str, str]]:
    """The client that these lines of `Forwarded` report, if that is the header that is read."""
    settings.PROXY_HEADER = "forwarded"
    return lambda *lines: ask("10.0.0.1", *(("forwarded", line) for line in lines))


@pytest.mark.parametrize(
    ("line", "client", "scheme"),
    [
        ("for=192.0.2.1", "192.0.2.1", "http"),
        ("for=192.0.2.1;proto=https;by=10.0.0.1", "192.0.2.1", "https"),
        ("For=192.0.2.1; Proto=HTTPS ;host=h", "192.0.2.1", "https"),
        ('for="[2001:db8::7]:443";proto="https"', "2001:db8::7", "https"),
        ("for=[2001:db8::7]:443", "2001:db8::7", "http"),
        (r'for="192.0.2.1";x="a\"b, for=10.0.0.9"', "192.0.2.1", "http"),
        ("for=203.0.113.6;proto=https, for=192.0.2.1;proto=http", "192.0.2.1", "http"),
        ("for=192.0.2.1;proto=https, for=10.0.0.9;proto=http", "192.0.2.1", "https"),
        ("for=10.0.0.8;proto=https,,for=10.0.0.9,", "10.0.0.8", "https"),
        ("for=unknown;proto=https", "", "https"),
        ("for=_hidden", "", "http"),
        ("for=192.0.2.1, for=_hidden", "", "http"),
        ("for=192.0.2.1, proto=https", "", "https"),
        ("for=192.0.2.1;proto=ftp", "192.0.2.1", "http"),
    ],
)
def test_forwarded_is_read_where_the_proxy_sends_it(
    forwarded: Ask, line: str, client: str, scheme: str
) -> None:
    assert forwarded(line) == (client, scheme)


@pytest.mark.parametrize(
    "line",
    [
        "",
        ",",
        "192.0.2.1",
        "for = 192.0.2.1",
        "for=10.0.0.66 192.0.2.1",
        "for=10.0.0.66;for=192.0.2.1",
        'for="10.0.0.66',
        'for=10.0.0.66;x=", for=192.0.2.1',
        'for=10.0.0.66;x=", for="[2001:db8::7]"',
        'for=10.0.0.66;x="a"b, for=192.0.2.1',
        'for=10.0.0.66;x="\\", for=192.0.2.1',
        "for=10.0.0.66;" + ";" * 200_000,
        " " * 200_000 + "!",
    ],
)
def test_broken_forwarded_is_an_unknown_client(forwarded: Ask, line: str) -> None:
    """Attack: a client opens a quoted text, to hide in it what the proxy appends."""
    began = time.process_time()
    assert forwarded(line) == ("", "http")
    assert time.process_time() - began < 20  # The square would be more.


def test_broken_line_of_a_client_does_not_hide_the_line_of_the_proxy(forwarded: Ask) -> None:
    assert forwarded('for=10.0.0.66;x="', "for=192.0.2.1;proto=https") == ("192.0.2.1", "https")


@pytest.mark.parametrize(
    ("header", "client"), [("x-forwarded-for", "192.0.2.1"), ("forwarded", "192.0.2.2")]
)
def test_only_the_header_of_the_setting_is_read(
    ask: Ask, settings: Settings, header: str, client: str
) -> None:
    """Attack: a client sends the one that its proxy does not overwrite."""
    settings.PROXY_HEADER = header
    both = [
        ("x-forwarded-for", "192.0.2.1"),
        ("forwarded", "for=192.0.2.2;proto=http"),
        ("x-forwarded-proto", "http" if header == "x-forwarded-for" else "https"),
    ]
    assert ask("10.0.0.1", *both) == (client, "http")
    others = [line for line in both if line[0] != header]
    assert ask("10.0.0.1", *others)[0] == "10.0.0.1"


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

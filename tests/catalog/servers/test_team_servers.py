"""Which servers teams may add: by their names, and by the addresses that these resolve to."""

import socket
from ipaddress import ip_network

import pytest

from keyportal.catalog.servers.team_servers import AllowedServers, is_public

PUBLIC = AllowedServers.parse(["public"])
NOT_PUBLIC = [
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::"),
    *("10.0.0.7", "172.16.0.1", "192.168.1.1", "fd00::1", "fc00::1", "fec0::1"),
    *("169.254.169.254", "fe80::1", "fe80::1%eth0", "168.63.129.16", "100.100.100.200"),
    *("100.64.0.1", "192.0.0.192", "192.0.2.1", "198.18.0.1", "255.255.255.255", "240.0.0.1"),
    *("224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"),
    # An IPv4 address within: mapped, compatible, translated, NAT64, 6to4, Teredo.
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::ffff:0:10.0.0.1"),
    *("64:ff9b::10.0.0.1", "64:ff9b:1::10.0.0.1", "2002:7f00:1::", "2002:808:808::1"),
    *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "100::1"),
    *("2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:10.0.0.1", "64:ff9b::8.8.8.8", "2002::1"),
    # Special purposes: the first and the last address of each network that is not above.
    *("0.255.255.255", "100.127.255.255", "192.0.0.0", "192.0.0.9", "192.0.0.10", "192.0.0.255"),
    *("192.31.196.0", "192.31.196.255", "192.52.193.0", "192.88.99.0", "192.88.99.255"),
    *("192.175.48.0", "198.19.255.255", "198.51.100.1", "203.0.113.1", "254.255.255.255"),
    *("100:0:0:1::1", "2001::1", "2001:1::1", "2001:1ff:ffff::1", "2620:4f:8000::1", "3ffe::1"),
    *("3fff::1", "3fff:fff:ffff::1", "5f00::1", "4000::1", "feff::1", "fd00:ec2::254"),
    *("fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42", "fd00:a9fe:a9fe::1"),
    *("", "models.example.com", "2130706433"),
]
IN_THE_INTERNET = [
    *(
        "8.8.8.8",
        "1.1.1.1",
        "192.0.1.1",
        "192.88.98.1",
        "192.88.100.1",
        "198.20.0.1",
        "223.255.255.1",
    ),
    *("2606:4700:4700::1111", "2001:200::1", "2001:4860:4860::8888", "2a00::1", "2620:4f:8001::1"),
]


def test_address_that_is_not_in_the_internet_is_refused() -> None:
    host = "models.example.com"
    named = AllowedServers.parse([host])
    assert [address for address in NOT_PUBLIC if is_public(address)] == []
    assert [address for address in NOT_PUBLIC if PUBLIC.allows_address(host, address)] == []
    assert [address for address in NOT_PUBLIC if named.allows_address(host, address)] == []


def test_address_in_the_internet_is_allowed() -> None:
    host = "models.example.com"
    assert [address for address in IN_THE_INTERNET if not is_public(address)] == []
    assert [each for each in IN_THE_INTERNET if not PUBLIC.allows_address(host, each)] == []
    assert not AllowedServers().allows_address(host, "8.8.8.8")


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0"),
        *("10.0.0.7", "167772167", "::1", "::ffff:127.0.0.1", "169.254.169.254", "2852039166"),
    ],
)
def test_address_in_any_spelling_is_judged_when_it_is_typed(host: str) -> None:
    assert not PUBLIC.allows_name(host)


def test_only_listed_names_are_allowed_and_only_with_public_addresses() -> None:
    allowed = AllowedServers.parse(["api.openai.com", ".openai.azure.com"])
    for host in ("api.openai.com", "API.OpenAI.com.", "acme.openai.azure.com"):
        assert allowed.allows_name(host)
        assert allowed.allows_address(host, "8.8.8.8")
        assert not allowed.allows_address(host, "10.0.0.7")
    for host in ("openai.com", "api.openai.com.evil.example", "evilopenai.azure.com", "8.8.8.8"):
        assert not allowed.allows_name(host)
        assert not allowed.allows_address(host, "8.8.8.8")


def own_address() -> str:
    """Of this machine, by which it reaches others; empty if it reaches none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return probe.getsockname()[0] if probe.connect_ex(("192.0.2.1", 9)) == 0 else ""


@pytest.mark.skipif(not own_address(), reason="no network")
def test_address_of_this_machine_is_refused_whatever_is_listed() -> None:
    """Attack: its ports that a firewall closes for others are open to itself."""
    own = own_address()
    network = ip_network(f"{own}/24", strict=False)
    other = next(host for host in network.hosts() if str(host) != own)
    allowed = AllowedServers(networks=(network,))
    assert not allowed.allows_address("models.example.com", own)
    assert not allowed.allows_name(own)
    assert allowed.allows_address("models.example.com", str(other))


def test_listed_network_is_allowed_for_any_name_and_nothing_else() -> None:
    allowed = AllowedServers.parse(["10.20.0.0/16", "fd00:20::/32"])
    assert allowed.allows_name("llm.example.internal")
    assert allowed.allows_name("10.20.0.7")
    assert allowed.allows_address("llm.example.internal", "10.20.0.7")
    assert allowed.allows_address("llm.example.internal", "fd00:20::7")
    for address in ("10.21.0.7", "8.8.8.8", "::ffff:10.20.0.7", "64:ff9b::10.20.0.7"):
        assert not allowed.allows_address("llm.example.internal", address)


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "::1"])
def test_no_list_allows_this_machine_or_a_metadata_service(address: str) -> None:
    allowed = AllowedServers.parse(["0.0.0.0/0", "::/0", "public"])
    assert not allowed.allows_address("models.example.com", address)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "off"),
        (["off"], "off"),
        (["public"], "public"),
        (["Api.Example.com", "10.0.0.0/8"], "api.example.com, 10.0.0.0/8"),
    ],
)
def test_setting_is_read_and_told(words: list[str], text: str) -> None:
    allowed = AllowedServers.parse(words)
    assert (str(allowed), bool(allowed)) == (text, text != "off")

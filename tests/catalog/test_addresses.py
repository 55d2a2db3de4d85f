"""Which addresses clouds serve credentials at, in any spelling."""

import ipaddress

import pytest

from keyportal.catalog.addresses import METADATA_NETWORKS, is_metadata_address

METADATA = [
    "169.254.169.254",
    "169.254.170.2",  # AWS, ECS
    "169.254.0.1",
    "2852039166",
    "0xA9FEA9FE",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "fe80::1",
    "fe80::a9fe:a9fe%eth0",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "FD00:0EC2:0::254",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
]
# The same IPv4 address as translators and tunnels embed it.
EMBEDDED = [
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::169.254.169.254",
    "::ffff:0:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::168.63.129.16",
    "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1:a9fe:a9:fe00::",
    "64:ff9b:1:a9:fe:a9fe::",
    "64:ff9b:1:0:a9:fea9:fe00::",
    "2002:a9fe:a9fe::",
    "2002:a9fe:a9fe:1::1",
    "2002:6464:64c8::1",
    "2001:0:a9fe:a9fe::1",
    "2001:0:102:304:0:0:5601:5601",
]


@pytest.mark.parametrize("host", [*METADATA, *EMBEDDED])
def test_metadata_addresses(host: str) -> None:
    assert is_metadata_address(host)


@pytest.mark.parametrize("network", METADATA_NETWORKS, ids=str)
def test_listed_networks(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> None:
    assert is_metadata_address(str(network.network_address))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.7",
        "100.100.100.201",  # Carrier-grade NAT, which Tailscale uses.
        "8.8.8.8",
        "::1",
        "::",
        "fd00::1",
        "fd00:ec3::254",
        "2001:db8::a9fe:a9fe",
        "64:ff9b::a00:7",
        "64:ff9b:1::a00:7",
        "::ffff:10.0.0.7",
        "2002:a00:7::1",
        "models.example",
        "",
    ],
)
def test_addresses_of_model_servers(host: str) -> None:
    assert not is_metadata_address(host)

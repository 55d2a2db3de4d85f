"""Addresses that are never model servers: there, clouds serve the machine's own credentials."""

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

# Metadata services that are not at a link-local address.
METADATA_NETWORKS = tuple(
    map(
        ip_network,
        (
            "fd00:ec2::/32",  # AWS: EC2 at ::254, EKS Pod Identity at ::23
            "fd20:ce::254",  # Google Cloud
            "fd00:c1::a9fe:a9fe",  # Oracle Cloud
            "fd00:42::42",  # Scaleway
            "fd00:a9fe:a9fe::1",  # Linode
            "fd00:100::100:200",  # Alibaba Cloud
            "100.100.100.200",  # Alibaba Cloud
            "192.0.0.192",  # Oracle Cloud Classic
            "168.63.129.16",  # Azure, the wire server
        ),
    )
)
# Networks whose last 32 bits are an IPv4 address.
_ENDS_WITH_IPV4 = tuple(
    map(
        IPv6Network,
        (
            "::/96",  # IPv4-compatible, RFC 4291
            "::ffff:0:0/96",  # IPv4-mapped, RFC 4291
            "::ffff:0:0:0/96",  # IPv4-translated, RFC 2765
            "64:ff9b::/96",  # NAT64, RFC 6052
        ),
    )
)
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")  # RFC 8215


def is_metadata_address(host: str) -> bool:
    """Whether `host` is a link-local address or a cloud's metadata service, in any spelling.

    Attack: 169.254.169.254 serves the machine's own credentials. It is also written as a number,
    or within an IPv6 address, from which a translator on the network takes it out again.
    """
    address = parse_address(host)
    if isinstance(address, IPv6Address):
        return _is_metadata(address) or any(map(_is_metadata, embedded_addresses(address)))
    return address is not None and _is_metadata(address)


def _is_metadata(address: IPv4Address | IPv6Address) -> bool:
    return address.is_link_local or any(address in network for network in METADATA_NETWORKS)


def parse_address(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that resolvers read in `host`: 2852039166 is 169.254.169.254."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None  # A name.


def embedded_addresses(address: IPv6Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses to which translators and tunnels may pass on what is sent to `address`."""
    if any(address in network for network in _ENDS_WITH_IPV4):
        yield IPv4Address(address.packed[12:])
    if address.sixtofour:
        yield address.sixtofour
    yield from address.teredo or ()
    if address in _LOCAL_NAT64:
        # RFC 6052: after a prefix of 48, 56, 64 or 96 bits, and around byte 8, which is zero.
        packed = address.packed
        without_byte_8 = packed[:8] + packed[9:]
        yield from (IPv4Address(without_byte_8[start : start + 4]) for start in (6, 7, 8))
        yield IPv4Address(packed[12:])

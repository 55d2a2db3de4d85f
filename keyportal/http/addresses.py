"""IP addresses: the network that an address belongs to."""

import ipaddress
from functools import lru_cache


def client_of(address: str | None) -> str:
    """Whom to count as one client: an IPv4 address, or for IPv6 the network of 64 bits that one
    customer has whole. Empty for what is no address."""
    try:
        peer = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if peer.version == 4:
        return str(peer)
    return str(ipaddress.ip_network((peer, 64), strict=False).network_address)


@lru_cache(10_000)
def network_of(address: str) -> str:
    """Its /24, or /48 for IPv6: what one office has, or one customer of a provider.

    What is no address is its own network.
    """
    try:
        peer = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:43]
    return str(ipaddress.ip_network(f"{peer}/{24 if peer.version == 4 else 48}", strict=False))

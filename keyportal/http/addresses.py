"""IP addresses: the network that an address belongs to, and whether it is of this machine."""

import ipaddress
from functools import lru_cache


def client_network(address: str | None) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 network of an IPv6 address.

    A provider gives each of its customers at least one /64. Empty for text that is no address.
    """
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)


@lru_cache(10_000)
def site_network(address: str) -> str:
    """Return the /24 network of an address, or the /48 for IPv6: the network of one site.

    Text that is no address is returned as it is, cut to 43 characters.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:43]
    return str(ipaddress.ip_network(f"{parsed}/{24 if parsed.version == 4 else 48}", strict=False))


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False

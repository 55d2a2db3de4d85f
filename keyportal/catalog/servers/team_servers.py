"""Which model servers teams may add for themselves: `KEYPORTAL_TEAM_SERVERS`.

Attack: an admin of a team is no operator, and lets the gateway call what only this machine reaches:
a database, a router's pages, another team's model server. So a team's server has a public address,
or one that the operators have listed. The name is judged when it is typed, and each IP address when
a connection is opened, because a name resolves to another address whenever its owner wants.
"""

import re
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, Self

from keyportal.catalog.addresses import embedded_addresses, is_metadata_address, parse_address

Network = IPv4Network | IPv6Network
_HOST = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)+")
# Among the others are addresses in which a translator or tunnel finds an IPv4 address.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# Of IANA's registries of special-purpose addresses, and called global there, or not known to each
# version of Python: none of a hosted API, and some of the nearest router or tunnel.
_SPECIAL = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # IETF protocol assignments
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # Multicast relays (AMT)
            "192.88.99.0/24",  # 6to4 relays
            "192.175.48.0/24",  # AS112
            "2001::/23",  # IETF protocol assignments
            "2620:4f:8000::/48",  # AS112
            "3ffe::/16",  # The former 6bone
            "3fff::/20",  # Documentation
        ),
    )
)
# The interface identifiers of ISATAP (RFC 5214): an IPv4 address follows.
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")


class AllowedServers(NamedTuple):
    is_public: bool = False
    """Every name may be used, if all its addresses are public."""
    hosts: frozenset[str] = frozenset()
    """Names that may be used if all their addresses are public. `.example.com` also stands for all
    names below it."""
    networks: tuple[Network, ...] = ()
    """Addresses that any name may have, public or not."""

    @classmethod
    def parse(cls, words: list[str]) -> Self:
        """Raises `ValueError`."""
        if words in ([], ["off"]):
            return cls()
        names = {word.lower() for word in words}
        networks = [ip_network(name) for name in sorted(names) if _is_network(name)]
        hosts = {name for name in names - {"public"} if not _is_network(name)}
        if wrong := sorted(name for name in hosts if not _HOST.fullmatch(name)):
            raise ValueError(f"{wrong[0]!r} is neither public, a network nor the name of a host")
        for network in networks:
            if network.is_loopback or network.is_link_local or network.is_multicast:
                raise ValueError(f"no team's server may have an address in {network}")
        return cls("public" in names, frozenset(hosts), tuple(networks))

    def __bool__(self) -> bool:
        """Whether teams may add servers."""
        return any(self)

    def __str__(self) -> str:
        words = [*["public"] * self.is_public, *sorted(self.hosts), *map(str, self.networks)]
        return ", ".join(words) or "off"

    def allows_name(self, host: str) -> bool:
        """Whether a server may have this name, or IP address in any spelling."""
        address = parse_address(host)
        if address is not None:
            return self.allows_address(host, str(address))
        return bool(self.networks) or self._has_name(host)

    def allows_address(self, host: str, address: str) -> bool:
        """Whether a connection may be opened to this IP address of the host."""
        if is_never_allowed(address):
            return False
        parsed = ip_address(address)
        if any(parsed in network for network in self.networks):
            return True
        return self._has_name(host) and _is_global(parsed)

    def _has_name(self, host: str) -> bool:
        host = host.lower().rstrip(".")
        if self.is_public or host in self.hosts or f".{host}" in self.hosts:
            return True
        return any(name[0] == "." and host.endswith(name) for name in self.hosts)


def is_never_allowed(address: str) -> bool:
    """Whether it is no team's server, whatever the operators list: of this machine, of a cloud's
    metadata service, or none of a single host. Also text that is no IP address.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return True
    if parsed.version == 6 and any(embedded_addresses(parsed)):
        return True
    is_local = parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified
    return is_local or parsed.is_multicast or is_metadata_address(address) or _is_own(address)


def _is_own(address: str) -> bool:
    """Whether this machine has the address: the system then sends from it too. Nothing is sent.

    Attack: ports that a firewall closes for others are open to this machine, also at its public
    address, or at one in a network that the operators list.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        if probe.connect_ex((address, 9)) == 0:
            return ip_address(probe.getsockname()[0]) == ip_address(address)
    return False


def is_public(address: str) -> bool:
    """Whether it is an address in the Internet."""
    return not is_never_allowed(address) and _is_global(ip_address(address))


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is public, if it is one that is allowed at all."""
    if not address.is_global or any(address in network for network in _SPECIAL):
        return False
    if isinstance(address, IPv4Address):
        return True
    return address in _GLOBAL_UNICAST and address.packed[8:12] not in _ISATAP


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True

"""The permissions of a key: allowed models, endpoints and allowed networks.

They are stored with the key, and the gateway checks them for each request. This module has the
rules for both.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import msgspec
from django.core.exceptions import ValidationError
from django.db import models

from keyportal.keys.keystring import require_no_key

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_ENTRIES = 100  # Patterns, and networks: the gateway checks each of them for each request.
MAX_PATTERN_LENGTH = 200  # Characters of a pattern, as of a served name.


class Endpoints(models.TextChoices):
    """The endpoints that a key can call. All keys can list their models and read themselves."""

    ALL = "all", "All endpoints"
    CHAT = "chat", "Chat and text generation only"
    EMBEDDINGS = "embeddings", "Embeddings only"
    READ = "read", "Read-only: list the models, call none"

    def covers(self, other: str) -> bool:
        return self in (Endpoints.ALL, other) or other == Endpoints.READ


class Permissions(NamedTuple):
    models: tuple[str, ...] = ()
    """Names of served models, or patterns such as `public/*`. Empty: all models of the team."""
    endpoints: Endpoints = Endpoints.ALL
    networks: tuple[str, ...] = ()
    """Allowed networks in CIDR notation, IPv4 or IPv6. Empty: all."""

    def covers(self, other: "Permissions") -> bool:
        """Whether everything that `other` allows is allowed here."""
        return (
            self.endpoints.covers(other.endpoints)
            and covers_models(self.models, other.models)
            and _covers_networks(self.networks, other.networks)
        )

    def changes_from(self, former: "Permissions") -> list[str]:
        """A text for each permission that differs, such as `Models: all → public/*`."""
        return [
            f"{name.capitalize()}: {_format_value(before)} → {_format_value(now)}"
            for name, before, now in zip(self._fields, former, self, strict=True)
            if before != now
        ]


UNRESTRICTED = Permissions()


class _PermissionsRow(Protocol):
    allowed_models: list[str]
    endpoints: str
    allowed_networks: list[str]


class PermissionsColumns:
    """Reads and sets the permissions of a row with the columns of `_PermissionsRow`."""

    def __get__(self, row: _PermissionsRow, owner: object = None) -> Permissions:
        return Permissions(
            tuple(row.allowed_models), Endpoints(row.endpoints), tuple(row.allowed_networks)
        )

    def __set__(self, row: _PermissionsRow, value: Permissions) -> None:
        row.allowed_models, row.allowed_networks = [*value.models], [*value.networks]
        row.endpoints = value.endpoints


def _format_value(value: Sequence[str]) -> str:
    return value if isinstance(value, str) else " ".join(value) or "all"


# Models.


class NamePatterns:
    """Names and patterns. Only `*` is special: it matches any text, including slashes."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        self._names = frozenset(pattern for pattern in self.patterns if "*" not in pattern)
        globs = [_glob_regex(pattern) for pattern in self.patterns if "*" in pattern]
        self._glob = re.compile("|".join(globs), re.DOTALL) if globs else None

    def __contains__(self, name: str) -> bool:
        return name in self._names or (
            self._glob is not None and self._glob.fullmatch(name) is not None
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamePatterns) and set(self.patterns) == set(other.patterns)

    def __hash__(self) -> int:
        return hash(frozenset(self.patterns))

    def __str__(self) -> str:
        return ", ".join(self.patterns)


def _glob_regex(pattern: str) -> str:
    """A regular expression without backtracking: a part between two stars matches where it first
    occurs.

    A later occurrence never helps. Attack: backtracking would let a user write a pattern that
    blocks the event loop, in which the gateway matches names.
    """
    first, *middle, last = (re.escape(part) for part in re.split(r"\*+", pattern))
    return first + "".join(f"(?>.*?{part})" for part in middle) + f".*{last}"


@lru_cache(4096)
def parse_models(text: str) -> NamePatterns | None:
    """Parse the JSON of a row as the database returns it. None: all models.

    Cached, because many keys have the same permissions. Invalid JSON matches nothing, so that one
    bad row does not fail the other requests of the batch.
    """
    try:
        patterns = _strings(text)
    except msgspec.DecodeError:
        return NamePatterns([])
    return NamePatterns(patterns) if patterns else None


def covers_models(allowed: Sequence[str], requested: Sequence[str]) -> bool:
    """Whether `allowed` matches all that `requested` matches.

    Each requested pattern must be within one allowed pattern: its star counts as a character that
    only a star of the other matches.
    """
    if not allowed or not requested:
        return not allowed
    patterns = NamePatterns(allowed)
    return all(pattern in patterns for pattern in requested)


def normalize_patterns(texts: Sequence[str]) -> tuple[str, ...]:
    """Sorted, without duplicates. A pattern of stars alone means all: the result is empty.

    Raises `ValidationError` for text that can be neither the name of a model nor a pattern.
    """
    patterns = sorted(set(texts))
    if len(patterns) > MAX_ENTRIES:
        raise ValidationError(f"At most {MAX_ENTRIES} models and patterns; * matches any text.")
    for pattern in patterns:
        require_no_key(pattern)  # The whole team can read patterns.
        if (
            not 0 < len(pattern) <= MAX_PATTERN_LENGTH
            or not pattern.isprintable()
            or " " in pattern
        ):
            raise ValidationError(
                f"“{pattern[:MAX_PATTERN_LENGTH]}” is no name of a model, and no pattern."
            )
        if pattern.count("*") > 3:
            raise ValidationError(f"“{pattern}” has more than three stars.")
    return () if any(not pattern.strip("*") for pattern in patterns) else tuple(patterns)


# Networks.

# No client has this address.
NO_NETWORK: tuple[Network, ...] = (ipaddress.IPv4Network("0.0.0.0/32"),)


@lru_cache(4096)
def parse_networks(text: str) -> tuple[Network, ...]:
    """Parse the JSON of a row as the database returns it. Empty: all networks.

    Invalid JSON allows no network, so that one bad row does not fail the other requests of the
    batch.
    """
    try:
        return tuple(ipaddress.ip_network(network) for network in _strings(text))
    except (msgspec.DecodeError, ValueError):
        return NO_NETWORK


def is_within(address: str, networks: Iterable[Network]) -> bool:
    """Whether the address is in one of the networks. An invalid address is in none."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(ip in network for network in networks)


def normalize_networks(texts: Sequence[str]) -> tuple[str, ...]:
    """As they are stored: `192.0.2.0/24`, `2001:db8::1/128`; sorted, without duplicates.

    Raises `ValidationError` with the first text that is not a network.
    """
    if len(texts) > MAX_ENTRIES:
        raise ValidationError(f"At most {MAX_ENTRIES} networks.")
    return tuple(map(str, sorted({_parse_network(text) for text in texts}, key=_sort_key)))


def _parse_network(text: str) -> Network:
    require_no_key(text)
    if "%" in text:
        raise ValidationError(
            f"“{text[:50]}” names an interface, and each machine has its own interfaces."
        )
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValidationError(f"“{text[:50]}” is not an address or a network (CIDR).") from None
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped:
        raise ValidationError(f"Write “{text}” as IPv4: the gateway sees such a client as IPv4.")
    if ipaddress.ip_address(text.partition("/")[0]) != network.network_address:
        raise ValidationError(f"“{text}” has bits beyond its prefix; did you mean {network}?")
    return network


def _sort_key(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _covers_networks(allowed: Sequence[str], requested: Sequence[str]) -> bool:
    if not allowed or not requested:
        return not allowed
    networks = [ipaddress.ip_network(text) for text in allowed]
    return all(
        any(_is_subnet(ipaddress.ip_network(text), network) for network in networks)
        for text in requested
    )


def _is_subnet(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]  # of one version


def _strings(text: str) -> list[str]:
    return msgspec.json.decode(text, type=list[str]) if text != "[]" else []

"""What a key may do: which models it calls, through which endpoints, and from which addresses.

Kept with the key, judged at the gateway for each request; this module has the rules for both.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import msgspec
from django.core.exceptions import ValidationError
from django.db import models

from keyportal.keys.rules.validators import require_no_key

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_ENTRIES = 100  # Of patterns, and of networks: each is looked at for each request.
MAX_PATTERN_LENGTH = 200  # Characters of a pattern, as of a served name.


class Endpoints(models.TextChoices):
    """What a key opens. Each of them lets it look at the models it may call, and at itself."""

    ALL = "all", "All endpoints"
    CHAT = "chat", "Chat and text generation only"
    EMBEDDINGS = "embeddings", "Embeddings only"
    READ = "read", "Read-only: list the models, call none"

    def covers(self, other: str) -> bool:
        return self in (Endpoints.ALL, other) or other == Endpoints.READ


class Permissions(NamedTuple):
    models: tuple[str, ...] = ()
    """Served names, or patterns such as `public/*`. Empty: all that the team may call."""
    endpoints: Endpoints = Endpoints.ALL
    networks: tuple[str, ...] = ()
    """Source addresses as CIDR, IPv4 or IPv6. Empty: from everywhere."""

    def covers(self, other: "Permissions") -> bool:
        """Whether `other` allows nothing that this doesn't."""
        return (
            self.endpoints.covers(other.endpoints)
            and covers_models(self.models, other.models)
            and _covers_networks(self.networks, other.networks)
        )

    def changes_from(self, former: "Permissions") -> list[str]:
        """A phrase for each that differs, such as `Models: all → public/*`."""
        return [
            f"{name.capitalize()}: {_format_value(before)} → {_format_value(now)}"
            for name, before, now in zip(self._fields, former, self, strict=True)
            if before != now
        ]


UNRESTRICTED = Permissions()


class _PermissionsRow(Protocol):
    allowed_models: list[str]
    endpoints: str
    networks: list[str]


class PermissionsColumns:
    """Reads and sets the permissions of a row that keeps them in the columns of `_Row`."""

    def __get__(self, row: _PermissionsRow, owner: object = None) -> Permissions:
        return Permissions(tuple(row.allowed_models), Endpoints(row.endpoints), tuple(row.networks))

    def __set__(self, row: _PermissionsRow, value: Permissions) -> None:
        row.allowed_models, row.networks = [*value.models], [*value.networks]
        row.endpoints = value.endpoints


def _format_value(value: Sequence[str]) -> str:
    return value if isinstance(value, str) else " ".join(value) or "all"


# Models.


class NamePatterns:
    """Names and patterns, of which `*` alone has a meaning: any text, slashes too."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        self._names = frozenset(one for one in self.patterns if "*" not in one)
        globs = [_glob_regex(one) for one in self.patterns if "*" in one]
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
    """Each part between two stars is taken where it comes first, and never sought again.

    A later place helps no name to match, and trying all of them would let whoever writes the
    patterns of a key hold up the event loop, in which they are matched.
    """
    first, *middle, last = (re.escape(part) for part in re.split(r"\*+", pattern))
    return first + "".join(f"(?>.*?{part})" for part in middle) + f".*{last}"


@lru_cache(4096)
def parse_models(text: str) -> NamePatterns | None:
    """From a row's JSON as the database gives it; None: all. Few differ, so few are parsed.

    What can't be read matches nothing, and nobody else in the batch is worse off for it.
    """
    try:
        patterns = _strings(text)
    except msgspec.DecodeError:
        return NamePatterns([])
    return NamePatterns(patterns) if patterns else None


def covers_models(allowed: Sequence[str], asked: Sequence[str]) -> bool:
    """Whether all that `asked` matches, `allowed` does. Each pattern must be within one of them.

    A star of a pattern is a character that only a star of the other matches.
    """
    if not allowed or not asked:
        return not allowed
    patterns = NamePatterns(allowed)
    return all(pattern in patterns for pattern in asked)


def normalize_patterns(texts: Sequence[str]) -> tuple[str, ...]:
    """As they are kept: sorted, each once; and a star alone is no bound at all.

    Raises `ValidationError` for what can't be the name of a model, or a pattern of names.
    """
    patterns = sorted(set(texts))
    if len(patterns) > MAX_ENTRIES:
        raise ValidationError(
            f"At most {MAX_ENTRIES} models and patterns; `*` stands for any text."
        )
    for pattern in patterns:
        require_no_key(pattern)  # They are shown to the whole team.
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


# Addresses.

# Nobody calls from it.
NO_NETWORK: tuple[Network, ...] = (ipaddress.IPv4Network("0.0.0.0/32"),)


@lru_cache(4096)
def parse_networks(text: str) -> tuple[Network, ...]:
    """From a row's JSON as the database gives it; empty: everywhere.

    What can't be read is nowhere, and nobody else in the batch is worse off for it.
    """
    try:
        return tuple(ipaddress.ip_network(one) for one in _strings(text))
    except (msgspec.DecodeError, ValueError):
        return NO_NETWORK


def is_within(address: str, networks: Iterable[Network]) -> bool:
    """Whether the address is in one of them; what is no address is nowhere."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(found in network for network in networks)


def normalize_networks(texts: Sequence[str]) -> tuple[str, ...]:
    """As they are kept: `192.0.2.0/24`, `2001:db8::1/128`; sorted, each once.

    Raises `ValidationError` that names the first that is no network.
    """
    if len(texts) > MAX_ENTRIES:
        raise ValidationError(f"At most {MAX_ENTRIES} networks.")
    return tuple(map(str, sorted({_parse_network(text) for text in texts}, key=_sort_key)))


def _parse_network(text: str) -> Network:
    require_no_key(text)
    if "%" in text:
        raise ValidationError(
            f"“{text[:50]}” names an interface, which means another one elsewhere."
        )
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValidationError(f"“{text[:50]}” is no address and no network (CIDR).") from None
    if isinstance(loose, ipaddress.IPv6Network) and loose.network_address.ipv4_mapped:
        raise ValidationError(f"Write “{text}” as IPv4: that is how such a client is seen.")
    if ipaddress.ip_address(text.partition("/")[0]) != loose.network_address:
        raise ValidationError(f"“{text}” has bits beyond its prefix; did you mean {loose}?")
    return loose


def _sort_key(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _covers_networks(allowed: Sequence[str], asked: Sequence[str]) -> bool:
    if not allowed or not asked:
        return not allowed
    wider = [ipaddress.ip_network(one) for one in allowed]
    return all(
        any(_is_subnet(ipaddress.ip_network(one), network) for network in wider) for one in asked
    )


def _is_subnet(one: Network, other: Network) -> bool:
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]  # of one version


def _strings(text: str) -> list[str]:
    return msgspec.json.decode(text, type=list[str]) if text != "[]" else []

"""The headers in which proxies report the client: X-Forwarded-* and Forwarded (RFC 7239).

A client may have written any part of them. `trusted_proxies` decides which part is believed.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import NamedTuple

from keyportal.http.types import Headers

SCHEMES = frozenset({"http", "https"})
MAX_LINE_LENGTH = 8_000  # Characters of one `Forwarded` line.


class Hop(NamedTuple):
    """The sender of a request, as the proxy that received the request reports it."""

    address: str
    """Normalized; empty if it is unknown: left out, hidden, or not an IP address."""
    scheme: str = ""
    """`http` or `https`; empty if it is not reported."""


UNKNOWN = Hop("")


def parse_address(text: str) -> str:
    """Return the address of `192.0.2.1:5678`, `[2001:db8::1]:443` or `"[::1]"`; else an empty text.

    The zone of a link-local address (`%eth0`) is removed, and an IPv4 address that is written as
    IPv6 (`::ffff:192.0.2.1`) becomes IPv4: it would match no IPv4 network.
    """
    match = _NODE.fullmatch(text.strip(' \t"'))
    if match is None:
        return ""
    host, _, _ = next(filter(None, match.groups()), "").partition("%")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)


# In brackets, or IPv4, with or without a port, which may be a name in RFC 7239; or IPv6.
_NODE = re.compile(r"\[([^\]]*)\](?::\w*)?|([\d.]+)(?::\w*)?|(\S+)", re.ASCII)


def x_forwarded_for(headers: Headers) -> Iterator[Hop]:
    """The hops of X-Forwarded-For, the nearest first, without schemes.

    A header without a single address is one unknown hop.
    """
    lines = [value for name, value in headers if name == b"x-forwarded-for"]
    texts = [text for text in b",".join(lines).decode("latin-1").split(",") if text.strip()]
    if lines and not texts:
        yield UNKNOWN
    for text in reversed(texts):
        yield Hop(parse_address(text))


def x_forwarded_proto(headers: Headers) -> str:
    """The last scheme of X-Forwarded-Proto, which the nearest proxy wrote; empty without one."""
    lines = [value for name, value in headers if name == b"x-forwarded-proto"]
    texts = [text.strip() for text in b",".join(lines).decode("latin-1").lower().split(",")]
    last = next(filter(None, reversed(texts)), "")
    return last if last in SCHEMES else ""


def forwarded(headers: Headers) -> Iterator[Hop]:
    """The hops of Forwarded, the nearest first.

    A line that breaks the syntax is one unknown hop. Attack: a client sends `for=10.0.0.1;x="`, so
    that the part which a proxy appends to this line becomes a part of the quoted text.
    """
    lines = [value.decode("latin-1") for name, value in headers if name == b"forwarded"]
    for line in reversed(lines):
        yield from reversed(_parse_line(line) or [UNKNOWN])


# `for=192.0.2.1;`: a name, a value that may be quoted, and what ends them. Real proxies also send
# `for=[::1]` without quotes.
_PAIR = re.compile(
    r"""[ \t]*+ (?: ([\w!#$%&'*+.^`|~-]++) = (?: "((?:[^"\\]|\\.)*+)" | ([^\s",;]*+) ) [ \t]*+ )?+
    (;|,|\Z)""",
    re.ASCII | re.VERBOSE,
)


def _parse_line(line: str) -> list[Hop]:
    """The hops of one line, in its order; empty if the line breaks the syntax."""
    hops: list[Hop] = []
    pairs: dict[str, str] = {}
    position = 0
    while position <= len(line) <= MAX_LINE_LENGTH:
        match = _PAIR.match(line, position)
        if match is None:
            return []
        name, quoted, plain, end = match.groups()
        if name:
            if name.lower() in pairs:
                return []
            pairs[name.lower()] = quoted or plain or ""
        if end != ";" and pairs:
            hops.append(_hop(pairs))
            pairs = {}
        if not end:
            return hops
        position = match.end()
    return []


def _hop(pairs: dict[str, str]) -> Hop:
    scheme = pairs.get("proto", "").lower()
    return Hop(parse_address(pairs.get("for", "")), scheme if scheme in SCHEMES else "")

"""Whom a request comes from: the peer, unless a trusted proxy speaks for somebody else.

Decided once, in front of both doors, so that audit rows, rate limits, Secure cookies and the
refusal of plain HTTP all see the same address and scheme.
"""

import ipaddress

from django.conf import settings

from keyportal.http.types import ASGIApp, Receive, Scope, Send


class TrustedProxies:
    """ASGI middleware: believes X-Forwarded-For and -Proto of the configured networks only."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._networks = settings.TRUSTED_PROXIES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.find_client(scope)
        await self.app(scope, receive, send)

    def find_client(self, scope: Scope) -> None:
        """Set a request's `client`, and `scheme`, to what is to be believed of them."""
        if client := scope.get("client"):
            if ":" in client[0]:
                client = scope["client"] = (_plain(client[0]), client[1])
            if self._networks and self._trusts(client[0]):
                self._believe(scope)

    def _believe(self, scope: Scope) -> None:
        chain = _values(scope, b"x-forwarded-for")
        # From the right: each trusted proxy tells who came to it. The first that is not trusted is
        # the client; whatever stands further left, the client may have written itself.
        for address in map(_plain, reversed(chain)):
            if not _is_address(address):
                break
            scope["client"] = (address, 0)
            if not self._trusts(address):
                break
        if (schemes := _values(scope, b"x-forwarded-proto")) and schemes[-1] in {"http", "https"}:
            scope["scheme"] = schemes[-1]

    def _trusts(self, text: str) -> bool:
        if not _is_address(text):
            return False
        address = ipaddress.ip_address(text)
        return any(address in network for network in self._networks)


def _plain(text: str) -> str:
    """A socket for IPv4 and IPv6 shows 192.0.2.1 as ::ffff:192.0.2.1, which no rule expects."""
    try:
        mapped = ipaddress.IPv6Address(text).ipv4_mapped if ":" in text else None
    except ValueError:
        return text
    return str(mapped) if mapped else text


def _values(scope: Scope, name: bytes) -> list[str]:
    found = b",".join(value for header, value in scope["headers"] if header == name)
    return [part.strip() for part in found.decode("latin-1").split(",") if part.strip()]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

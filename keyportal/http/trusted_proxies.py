"""The client's address and scheme of a request, behind trusted proxies.

They are set once, before the gateway and the portal see the request. So audit events, rate limits,
Secure cookies and the refusal of plain HTTP all use the same address and scheme.
"""

import ipaddress

from django.conf import settings

from keyportal.http.types import ASGIApp, Receive, Scope, Send


class TrustedProxies:
    """ASGI middleware: trusts X-Forwarded-For and -Proto from the configured networks only."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._networks = settings.TRUSTED_PROXIES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.set_client(scope)
        await self.app(scope, receive, send)

    def set_client(self, scope: Scope) -> None:
        """Set the request's `client`, and its `scheme` if a trusted proxy forwards one."""
        if client := scope.get("client"):
            if ":" in client[0]:
                client = scope["client"] = (_unmapped(client[0]), client[1])
            if self._networks and self._is_trusted(client[0]):
                self._apply_forwarded_headers(scope)

    def _apply_forwarded_headers(self, scope: Scope) -> None:
        chain = _header_values(scope, b"x-forwarded-for")
        # From the right: each trusted proxy has appended the address that connected to it. The
        # first address that is not trusted is the client. Attack: the client itself may have sent
        # every address to the left of that.
        for address in map(_unmapped, reversed(chain)):
            if not _is_address(address):
                break
            scope["client"] = (address, 0)
            if not self._is_trusted(address):
                break
        schemes = _header_values(scope, b"x-forwarded-proto")
        if schemes and schemes[-1] in {"http", "https"}:
            scope["scheme"] = schemes[-1]

    def _is_trusted(self, text: str) -> bool:
        if not _is_address(text):
            return False
        address = ipaddress.ip_address(text)
        return any(address in network for network in self._networks)


def _unmapped(text: str) -> str:
    """Return 192.0.2.1 for ::ffff:192.0.2.1, and other texts unchanged.

    A socket that serves IPv4 and IPv6 reports IPv4 clients in the mapped form, which matches no
    IPv4 network.
    """
    try:
        mapped = ipaddress.IPv6Address(text).ipv4_mapped if ":" in text else None
    except ValueError:
        return text
    return str(mapped) if mapped else text


def _header_values(scope: Scope, name: bytes) -> list[str]:
    """Return the comma-separated values of all headers of this name, in their order."""
    joined = b",".join(value for header, value in scope["headers"] if header == name)
    return [part.strip() for part in joined.decode("latin-1").split(",") if part.strip()]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

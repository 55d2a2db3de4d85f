"""The client's address and scheme of a request, behind trusted proxies.

They are set once, before the gateway and the portal see the request. So audit events, rate limits,
Secure cookies and the refusal of plain HTTP all use the same address and scheme.
"""

import ipaddress
from collections.abc import Awaitable, Iterator

from django.conf import settings

from keyportal.http.forwarded import (
    Hop,
    forwarded,
    parse_address,
    x_forwarded_for,
    x_forwarded_proto,
)
from keyportal.http.types import ASGIApp, Receive, Scope, Send


class TrustedProxies:
    """ASGI middleware: believes what the configured networks report about the client.

    It reads either X-Forwarded-For and X-Forwarded-Proto, or Forwarded, as configured. Attack: a
    client sends the header that the proxy does not overwrite.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._networks = settings.TRUSTED_PROXIES
        self._reads_forwarded = settings.PROXY_HEADER == "forwarded"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            self.set_client(scope)
        return self.app(scope, receive, send)

    def set_client(self, scope: Scope) -> None:
        """Set the request's `client`, and its `scheme` if a trusted proxy reports one.

        The address is empty if the proxy reports a client whose address can't be read. It is never
        the proxy's own then. Attack: a key for 10.0.0.0/8 would work for everybody, and all unknown
        clients would share the rate limits of the proxy.
        """
        if client := scope.get("client"):
            if ":" in client[0]:
                client = scope["client"] = (_unmapped(client[0]), client[1])
            if self._networks and self._is_trusted(client[0]):
                self._apply_headers(scope)

    def _apply_headers(self, scope: Scope) -> None:
        headers = scope["headers"]
        read = forwarded if self._reads_forwarded else x_forwarded_for
        hop = self._first_untrusted(read(headers))
        if hop is not None:
            scope["client"] = (hop.address, 0)
        scheme = (
            (hop.scheme if hop else "") if self._reads_forwarded else x_forwarded_proto(headers)
        )
        if scheme:
            scope["scheme"] = scheme

    def _first_untrusted(self, hops: Iterator[Hop]) -> Hop | None:
        """The nearest hop that is no trusted proxy, else the farthest hop; None without any.

        Each trusted proxy has appended the address that connected to it. Attack: the client itself
        may have sent all hops beyond the first one that is not trusted.
        """
        hop = None
        for hop in hops:
            if not self._is_trusted(hop.address):
                break
        return hop

    def _is_trusted(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _unmapped(text: str) -> str:
    """Return 192.0.2.1 for ::ffff:192.0.2.1, and other texts unchanged.

    A socket that serves IPv4 and IPv6 reports IPv4 clients in this form, which matches no IPv4
    network.
    """
    return parse_address(text) or text if text[:7].lower() == "::ffff:" else text

"""One GET request to a model server, for commands. Calls use the gateway's own HTTP client."""

import socket
import ssl
import time
from http.client import HTTPConnection, HTTPResponse
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

from keyportal.catalog.addresses import is_metadata_address

TIMEOUT_SECONDS = 10
MAX_BYTES = 4 * 1024 * 1024


class Reply(NamedTuple):
    status: int
    reason: str
    body: bytes


def fetch(url: str, headers: dict[str, str], context: ssl.SSLContext) -> Reply:
    """Get `url`, with TLS by `context` if it is https. Redirects and proxies are not followed:
    both would see the credential in `headers`.

    Raises `OSError`, or `http.client.HTTPException` if the server does not speak HTTP.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    parts = urlsplit(url)
    connection = _Connection(parts, context if parts.scheme == "https" else None)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("GET", quote(target, safe="/%:@!$&'()*+,;=~?"), headers=headers)
        response = connection.getresponse()
        return Reply(response.status, response.reason, _read_limited(response, deadline))
    finally:
        connection.close()


class _Connection(HTTPConnection):
    """Connects to the address that was checked, with the host's name in TLS and in `Host`.

    Attack: a name that resolves to an allowed address when it is checked, and to a cloud's
    credential server when it is resolved again.
    """

    def __init__(self, parts: SplitResult, context: ssl.SSLContext | None) -> None:
        # Host names a port unless it is this one.
        self.default_port = 443 if context else 80
        super().__init__(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        self._context = context

    def connect(self) -> None:
        opened = _open(self.host, self.port)
        try:
            self.sock = (
                self._context.wrap_socket(opened, server_hostname=self.host)
                if self._context
                else opened
            )
        except BaseException:
            opened.close()
            raise


def _open(host: str, port: int) -> socket.socket:
    error = OSError(None, f"{host} has no address")
    for address in _resolve(host, port):
        try:
            return socket.create_connection((address, port), TIMEOUT_SECONDS)
        except OSError as failure:
            error = failure
    raise error


def _resolve(host: str, port: int) -> list[str]:
    """The IP addresses of `host`. Raises `OSError` if any of them is never a model server's."""
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(None, f"{host} can't be resolved: {error}") from None
    addresses = list(dict.fromkeys(str(row[4][0]) for row in rows))
    if any(map(is_metadata_address, addresses)):
        raise OSError(
            None, f"{host} has a link-local or cloud metadata address: never a model server's"
        )
    return addresses


def _read_limited(response: HTTPResponse, deadline: float) -> bytes:
    """The whole body. Raises `OSError` if it is too large or not complete by `deadline`."""
    body = b""
    while block := response.read1(65_536):
        body += block
        if len(body) > MAX_BYTES:
            raise OSError(None, f"the answer is over {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the answer took over {TIMEOUT_SECONDS} seconds")
    return body

"""One bounded HTTP request to another server. Model calls use the gateway's own HTTP client."""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from threading import Timer
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

TIMEOUT_SECONDS = 10
MAX_BYTES = 4 * 1024 * 1024


class Reply(NamedTuple):
    status: int
    reason: str
    body: bytes


def fetch(
    url: str,
    headers: dict[str, str],
    context: ssl.SSLContext,
    *,
    body: bytes | None = None,
    seconds: float | None = None,
    is_forbidden: Callable[[str], bool] = lambda _: False,
) -> Reply:
    """Get `url`, or post `body` there, with TLS by `context` if it is https. Redirects and proxies
    are not followed: both would see the credential in `headers`.

    Raises `OSError`, also if `is_forbidden` says so of an IP address of the host, or
    `http.client.HTTPException` if the server does not speak HTTP.
    """
    parts, seconds = urlsplit(url), seconds or TIMEOUT_SECONDS
    tls = context if parts.scheme == "https" else None
    connection = _Connection(parts, tls, is_forbidden, seconds)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    timer = Timer(seconds, connection.interrupt)
    timer.start()
    try:
        target = quote(target, safe="/%:@!$&'()*+,;=~?")
        connection.request("GET" if body is None else "POST", target, body, headers)
        with connection.getresponse() as response:
            return Reply(response.status, response.reason, _read_limited(response))
    finally:
        timer.cancel()
        connection.close()
        if connection.is_interrupted:
            raise TimeoutError(f"the answer took over {seconds:g} seconds")


class _Connection(HTTPConnection):
    """Connects to the address that was checked, with the host's name in TLS and in `Host`.

    Attack: a name that resolves to an allowed address when it is checked, and to a cloud's
    credential server when it is resolved again.
    """

    def __init__(
        self,
        parts: SplitResult,
        context: ssl.SSLContext | None,
        is_forbidden: Callable[[str], bool],
        seconds: float,
    ) -> None:
        # Host names a port unless it is this one.
        self.default_port = 443 if context else 80
        super().__init__(parts.hostname or "", parts.port, timeout=seconds)
        self._context = context
        self._is_forbidden = is_forbidden
        self._opened: socket.socket | None = None
        self.is_interrupted = False

    def connect(self) -> None:
        opened = _open(self.host, _resolve(self.host, self.port, self._is_forbidden))
        self._use(opened)
        if self._context:
            wrapped = self._context.wrap_socket(
                opened, server_hostname=self.host, do_handshake_on_connect=False
            )
            self._use(wrapped)
            wrapped.do_handshake()

    def _use(self, opened: socket.socket) -> None:
        """Attack: a name server that answers after the time-out, so `interrupt` found nothing to
        end; then an answer without an end."""
        self.sock = self._opened = opened
        if self.is_interrupted:
            raise TimeoutError

    def interrupt(self) -> None:
        """End what reads from the server, from another thread.

        Attack: a head or a trailer without an end, which is never silent.
        """
        self.is_interrupted = True
        if self._opened is not None:
            with suppress(OSError):
                self._opened.shutdown(socket.SHUT_RDWR)


def _open(host: str, addresses: list[tuple[str, int]]) -> socket.socket:
    error = OSError(f"{host} has no address")
    for address in addresses:
        try:
            return socket.create_connection(address, TIMEOUT_SECONDS / len(addresses))
        except OSError as failure:
            error = failure
    raise error


def _resolve(host: str, port: int, is_forbidden: Callable[[str], bool]) -> list[tuple[str, int]]:
    """The IP addresses of `host`, each with the port. Raises `OSError` if one is forbidden."""
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(f"{host} can't be resolved: {reason_of(error)}") from None
    addresses = list(dict.fromkeys(str(row[4][0]) for row in rows))
    if any(map(is_forbidden, addresses)):
        refusal = "an address that is not allowed, such as a link-local or cloud metadata address"
        raise OSError(f"{host} has {refusal}")
    return [(address, port) for address in addresses]


def _read_limited(response: HTTPResponse) -> bytes:
    """The whole body. Raises `OSError` if it is too large."""
    body = b""
    while block := response.read1(65_536):
        body += block
        if len(body) > MAX_BYTES:
            raise OSError(f"the answer is over {MAX_BYTES} bytes")
    return body


def reason_of(error: Exception) -> str:
    """Why it failed, for a person: without the number of the error."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__

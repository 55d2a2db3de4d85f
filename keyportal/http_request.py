"""One parsed HTTP/1 request, made of what is read of it, and of nothing else.

Gunicorn's own holds every header twice more as text, goes through all of them three times, and
copies their list twice: half of what the server itself spends on a small request.
"""

from typing import Any, Self
from urllib.parse import unquote_to_bytes

from gunicorn.asgi.parser import CallbackRequest

from keyportal.asgi_types import Scope

ASGI = {"version": "3.0", "spec_version": "2.4"}
VERSIONS = {(1, 0): "1.0", (1, 1): "1.1"}


class HTTPRequest(CallbackRequest):  # type: ignore[misc]  # untyped base
    """What may stand in a request only once, or in one form only, the fast parser has refused."""

    __slots__ = ("query_string", "target")

    # What only HTTP/2 and other parsers know.
    fragment = ""
    proxy_protocol_info = None
    _expect_100_continue = False

    @classmethod
    def from_parser(cls, parser: Any, is_ssl: bool = False) -> Self:
        request = cls.__new__(cls)  # Without the defaults, all of which are set here.
        request.method = parser.method.decode("ascii")
        request.target = parser.path
        request.raw_path, _, request.query_string = request.target.partition(b"?")
        request.path = _decoded(request.raw_path)
        request.version = parser.http_version
        request.headers_bytes = parser.asgi_headers
        request.scheme = "https" if is_ssl else "http"
        request.content_length = parser.content_length or 0
        request.chunked = parser.is_chunked
        # Of two `Connection` lines the parser believes the last, gunicorn the first. Both may ask
        # for the end.
        first = parser.get_header(b"connection") or b""
        request.must_close = not parser.should_keep_alive or first.strip().lower() == b"close"
        return request

    def should_close(self) -> bool:
        return bool(self.must_close)

    def scope(self, server: Any, client: Any, state: Any, root_path: str) -> Scope:
        """As the ASGI specification has it, for the addresses of the two ends."""
        return {
            "type": "http",
            "asgi": ASGI,
            "http_version": VERSIONS[self.version],
            "method": self.method,
            "scheme": self.scheme,
            "path": self.path,
            "raw_path": self.raw_path,
            "query_string": self.query_string,
            "root_path": root_path,
            "headers": self.headers_bytes,
            "server": server,
            "client": client,
            "state": state,
        }

    # As text, for gunicorn's access log.

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [
            (name.decode("latin-1").upper(), value.decode("latin-1"))
            for name, value in self.headers_bytes
        ]

    @property
    def uri(self) -> str:
        return str(self.target, "latin-1")

    @property
    def query(self) -> str:
        return str(self.query_string, "latin-1")


def _decoded(path: bytes) -> str:
    return (unquote_to_bytes(path) if b"%" in path else path).decode(errors="replace")

"""Cross-origin requests: which web pages may read the gateway's answers in a browser (CORS).

Only the gateway has these headers. Attack: with them on the portal, a page on another origin could
read what a signed-in person sees. The gateway reads no cookie, and never sends
`Access-Control-Allow-Credentials`, so a page can use only a key that it has itself.
"""

from keyportal.http.requests import NO_SNIFFING
from keyportal.http.types import ASGIApp, Headers, Message, Receive, Scope, Send

PREFLIGHT_SECONDS = 3600  # For so long a browser may remember the answer to a preflight.
ANY = b"*"
_PREFLIGHT_HEADERS: Headers = [
    (b"access-control-allow-methods", b"GET, HEAD, POST, DELETE"),
    # By the specification, `*` does not include Authorization.
    (b"access-control-allow-headers", b"Authorization, *"),
    (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
    (b"content-length", b"0"),
    NO_SNIFFING,
]


class CORSMiddleware:
    """ASGI middleware: answers preflights, and adds CORS headers to all answers, errors included.

    An origin is compared as a whole. Attack: `https://app.example.com.evil.example` begins with an
    allowed origin. What the caller sent is never sent back: the header has the origin as it is in
    the setting.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...], *, is_https: bool) -> None:
        self.app = app
        self._is_https = is_https
        self._origins = {origin.encode(): origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = self._allowed_origin(scope["headers"])
        headers = self._headers(origin)
        if scope["method"] == "OPTIONS" and origin and self._is_preflight(scope):
            headers += _PREFLIGHT_HEADERS
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _allowed_origin(self, received: Headers) -> bytes:
        """The origin that may read the answer, as the setting has it; empty for none."""
        if ANY in self._origins:
            return ANY
        sent = [value for name, value in received if name == b"origin"]
        return self._origins.get(sent[0], b"") if len(sent) == 1 else b""

    def _headers(self, origin: bytes) -> Headers:
        headers: Headers = [] if origin == ANY else [(b"vary", b"Origin")]
        if origin:
            headers += [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", b"*"),
            ]
        return headers

    def _is_preflight(self, scope: Scope) -> bool:
        """Whether to answer here. A preflight never has a key.

        Over plain HTTP, where https is required, it is refused like any request. So the browser
        does not send the request that would have the key.
        """
        names = {name for name, _ in scope["headers"]}
        is_secure = scope["scheme"] == "https" or not self._is_https
        return is_secure and {b"origin", b"access-control-request-method"} <= names

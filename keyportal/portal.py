"""What stands in front of the portal's pages, before Django sees a request."""

from keyportal.asgi_types import ASGIApp, Receive, Scope, Send

# A form here is a few hundred bytes. Django would spool any size to disk before looking at it.
MAX_FORM_BYTES = 1024 * 1024
_TOO_LARGE = b"The form is too large.\n"


class BodyLimit:
    """ASGI middleware: refuses a body that is too large, or that doesn't say how large it is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        is_counted = b"transfer-encoding" not in headers and length.isdigit()
        if is_counted and int(length) <= MAX_FORM_BYTES:
            await self.app(scope, receive, send)
            return
        answer = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(_TOO_LARGE)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 413, "headers": answer})
        await send({"type": "http.response.body", "body": _TOO_LARGE})

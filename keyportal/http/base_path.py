"""The path of `KEYPORTAL_URL`, such as `/keyportal`. A proxy in front keeps it or removes it.

All of Keyportal works with paths without it. Only Django gets paths with it: its URLconf begins
with it, so that every link has it, also in mails that are written outside of a request.
"""

from keyportal.http.types import ASGIApp, Receive, Scope, Send


class BasePathRemoved:
    """ASGI middleware: removes `base_path` from the request's path if it is there, once.

    It changes a copy of the scope, because the access log must show the path that the client sent.

    Only the base path itself is removed, as a whole and at the start. Attack: with
    `//keyportal/admin/` or `/%6beyportal/admin/`, a request passes a proxy's rule for
    `/keyportal/admin/`. Such a path is left as it is, and no page has it.
    """

    def __init__(self, app: ASGIApp, base_path: str) -> None:
        self.app = app
        self._base_path = base_path
        self._raw_base_path = base_path.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path: bytes = scope["raw_path"]
        raw_rest = raw_path.removeprefix(self._raw_base_path)
        # The path as it was sent decides. If it begins with the base path, the decoded one does.
        if raw_rest != raw_path and raw_rest[:1] in (b"", b"/"):
            rest = scope["path"].removeprefix(self._base_path)
            scope = {**scope, "path": rest or "/", "raw_path": raw_rest or b"/"}
        await self.app(scope, receive, send)


class BasePathAdded:
    """ASGI middleware in front of Django: adds `base_path` to the request's path."""

    def __init__(self, app: ASGIApp, base_path: str) -> None:
        self.app = app
        self._base_path = base_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "path": self._base_path + scope["path"]}, receive, send)

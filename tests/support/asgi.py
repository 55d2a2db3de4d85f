"""The server's side of one ASGI request, for tests without a socket."""

import asyncio
import json
from typing import Any

from keyportal.http.types import Headers, Message, Scope


def scope(
    path: str = "/v1/models", method: str = "GET", headers: Headers | None = None, **more: object
) -> Scope:
    """Header names in lower case, as servers give them."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "scheme": "http",
        "query_string": b"",
        "client": ("192.0.2.7", 50000),
        "headers": headers or [],
        **more,
    }


class Client:
    """Sends a body in parts, `pause` seconds apart, and records the response.

    After the last part it stays connected. A part of None disconnects.
    """

    def __init__(self, *parts: bytes | None, pause: float = 0) -> None:
        self.parts = list(parts or [b""])
        self.pause = pause
        self.messages: list[Message] = []
        self.seconds = 0.0
        """How long it was served, if a test says so."""

    async def receive(self) -> Message:
        if not self.parts:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self.pause)
        part = self.parts.pop(0)
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(self.parts)}

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self._start["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self._start["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def _start(self) -> Message:
        (start,) = (m for m in self.messages if m["type"] == "http.response.start")
        return start


async def unlimited(_size: int) -> None:
    """Memory for any body at once."""

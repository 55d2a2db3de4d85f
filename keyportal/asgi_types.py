"""The ASGI interface as types: what the server calls, and what it hands over."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class Answer(NamedTuple):
    """A whole one, in one piece."""

    status: int
    headers: Headers
    body: bytes


Answerer = Callable[[Scope], Awaitable[Answer]]
"""Answers requests without a look at their bodies, and never fails."""

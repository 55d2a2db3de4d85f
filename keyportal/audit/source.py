"""Who acts at this moment, and through what, for code that records it and gets no request."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypedDict

from django.http import HttpRequest

from keyportal.teams.models import User

VIA_LENGTH = 100
_via: ContextVar[str] = ContextVar("via", default="")
_request: ContextVar[HttpRequest | None] = ContextVar("request", default=None)
_source: ContextVar["Source | None"] = ContextVar("source", default=None)


def set_request(request: HttpRequest | None) -> None:
    """The request of a page, until the next call: who changes what signals record."""
    _request.set(request)


class Source(TypedDict):
    actor: User | None
    address: str | None


@contextmanager
def acting_as(actor: User, address: str | None) -> Iterator[None]:
    """Set who acts, for events that a signal records inside the block.

    For a program with a management key, and for somebody who is not signed in yet. Attack: a
    program also sends the session cookie of another person, so that their name is recorded.
    """
    token = _source.set({"actor": actor, "address": address})
    try:
        yield
    finally:
        _source.reset(token)


def current_source() -> Source:
    """Who acts, for events that a signal records: the user of the page, or a command."""
    if source := _source.get():
        return source
    request = _request.get()
    if request is None:
        return {"actor": None, "address": None}
    user = getattr(request, "user", None)
    actor = user if user is not None and user.is_authenticated else None
    return {"actor": actor, "address": request.META.get("REMOTE_ADDR")}


@contextmanager
def acting_via(description: str) -> Iterator[None]:
    """Set `via`, such as the actor's management key, of all events recorded inside the block.

    The code that records an event need not know it, and so can't forget it.
    """
    token = _via.set(description[:VIA_LENGTH])
    try:
        yield
    finally:
        _via.reset(token)


def current_via() -> str:
    """What `acting_via` has set; empty outside."""
    return _via.get()

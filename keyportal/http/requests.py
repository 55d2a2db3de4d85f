"""Helpers for ASGI requests: the length of the body, request ids, and draining."""

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress

from keyportal.http.turns import Pace, Turns
from keyportal.http.types import Receive, Scope

UNKNOWN = float("inf")
# A header of every response that is not Django's. Attack: a browser takes an answer with a caller's
# text for a page, although its type says otherwise.
NO_SNIFFING = (b"x-content-type-options", b"nosniff")
HTTPS_REQUIRED = "Use https:// for this address. A key sent over plain HTTP should be replaced."


def content_length(scope: Scope) -> float:
    """Return the length of the body in bytes: 0 without a body, infinite if it is not known."""
    return length_of_body(dict(scope["headers"]))


def length_of_body(headers: Mapping[bytes, bytes]) -> float:
    """The same by the request's headers."""
    if b"transfer-encoding" in headers:
        return UNKNOWN
    length = headers.get(b"content-length", b"0")
    # `int` raises ValueError for a text of thousands of digits.
    return int(length) if length.isdigit() and len(length) < 20 else UNKNOWN


def new_request_id() -> str:
    """Return `req_` and 24 hexadecimal digits: the time in 16ths of a second, and a random number.

    An id only identifies a request and protects nothing. So it needs no secure random number, which
    would cost a system call.

    It begins with the time, so that new calls stand side by side in the index by which a call is
    found. With random ids, each call changed another page of that index, which was a third of the
    cost of writing it.
    """
    return f"req_{int(time.time() * 16):09x}{random.getrandbits(60):015x}"


class UUIDs:
    """Makes UUIDs (version 4) of one random beginning and a counter, for a tenth of `uuid4`'s time.

    Like `new_request_id`, they protect nothing. Create it after the fork: two workers must not
    begin alike.
    """

    def __init__(self) -> None:
        self._beginning = str(uuid.uuid4())[:24].encode()
        self._numbers = itertools.count(random.getrandbits(40))

    def new(self) -> bytes:
        return b"%b%012x" % (self._beginning, next(self._numbers))


DRAIN_SECONDS = 1.0


async def drain_body(receive: Receive, turns: Turns) -> None:
    """Read and discard what the client still sends, for at most DRAIN_SECONDS.

    If a server closes a connection while its client is still sending, TCP resets the connection and
    the client never reads the error response.
    """
    pace = Pace(turns)
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while (message := await receive()).get("more_body", False):
                await pace.after(len(message["body"]))

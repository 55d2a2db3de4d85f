"""What a request says of itself, and what each is called, the same at every place that asks."""

import asyncio
import random
from contextlib import suppress

from keyportal.http.types import Receive, Scope

UNKNOWN = float("inf")


def content_length(scope: Scope) -> float:
    """Bytes of the body: 0 where there is none, infinite where nobody said or believes it."""
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return UNKNOWN
    length = headers.get(b"content-length", b"0")
    # Python takes offence at thousands of digits, with an error that is no refusal.
    return int(length) if length.isdigit() and len(length) < 20 else UNKNOWN


def new_request_id() -> str:
    """`req_` and 24 hexadecimal digits: for telling apart, not for guarding, so no system call."""
    return f"req_{random.getrandbits(96):024x}"


DRAIN_SECONDS = 1.0


async def drain_body(receive: Receive) -> None:
    """Read and forget what the client still sends, for a second at most.

    A server that closes while its client still sends resets the connection, and the client never
    reads why it was refused.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while (await receive()).get("more_body", False):
                pass

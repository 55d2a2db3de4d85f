"""How a refusal reaches whoever is still sending."""

import asyncio
from contextlib import suppress

from keyportal.asgi_types import Receive

LINGER_SECONDS = 1.0


async def read_on(receive: Receive) -> None:
    """Read and forget what the client still sends, for a second at most.

    A server that closes while its client still sends resets the connection, and the client never
    reads why it was refused.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass

"""Connects to the address of a host that answers first, as in RFC 8305 (Happy Eyeballs)."""

import asyncio
import socket
from collections.abc import Sequence
from itertools import chain, zip_longest

ATTEMPT_DELAY_SECONDS = 0.25  # RFC 8305, section 5.


def by_turns(addresses: Sequence[str]) -> list[str]:
    """IPv6 and IPv4 by turns, beginning with the family of the first, else in the same order."""
    first = [address for address in addresses if (":" in address) == (":" in addresses[0])]
    others = [address for address in addresses if address not in first]
    return [address for address in chain(*zip_longest(first, others)) if address is not None]


async def connect(addresses: Sequence[str], port: int) -> tuple[str, socket.socket]:
    """Open a TCP connection to one of the IP addresses. Returns the address and the socket.

    They are tried in order: the next one when an attempt fails, or after ATTEMPT_DELAY_SECONDS
    while the earlier attempts go on. All others are closed, also if the caller is cancelled. Raises
    the last attempt's `OSError` if all fail.
    """
    if len(addresses) == 1:
        return addresses[0], await _open(addresses[0], port)
    attempts: dict[asyncio.Task[socket.socket], str] = {}
    error = OSError(None, "The name has no address.")
    waiting = list(reversed(addresses))
    try:
        while waiting or attempts:
            if waiting:
                address = waiting.pop()
                attempts[asyncio.create_task(_open(address, port))] = address
            done, _ = await asyncio.wait(
                attempts,
                timeout=ATTEMPT_DELAY_SECONDS if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                failure = attempt.exception()
                if failure is None:
                    return attempts.pop(attempt), attempt.result()
                del attempts[attempt]
                if not isinstance(failure, OSError):
                    raise failure
                error = failure
        raise error
    finally:
        for attempt in attempts:
            _abandon(attempt)


def _abandon(attempt: "asyncio.Task[socket.socket]") -> None:
    """Stop an attempt, and close its socket if it has just succeeded."""
    if not attempt.cancel() and not attempt.exception():
        attempt.result().close()


async def _open(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # With the protocol, asyncio turns off Nagle's algorithm, which delays small writes.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, (address, port))
    except BaseException:
        opened.close()
        raise
    return opened

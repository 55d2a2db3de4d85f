"""What a stream of the benchmark is, which both of its ends must agree on."""

from typing import NamedTuple

CHUNKS_A_SECOND = 20
CHUNKS = 200
MARK = b"~"  # Once in each chunk's text and nowhere else; one byte is never cut in two.


class Reading(NamedTuple):
    """What the reader of many streams saw."""

    chunks: int
    """Of all streams together."""
    seconds: list[float]
    """From the request to the last byte, of each stream that ended properly, ascending."""
    busy: float
    """The reader's share of its core."""

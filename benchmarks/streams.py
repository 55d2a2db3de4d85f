"""Constants of a stream, shared by its server and its client."""

from typing import NamedTuple

CHUNKS_PER_SECOND = 20
CHUNKS = 200
MARK = b"~"  # Once in each chunk's text, and nowhere else. One byte, so it can't be split.


class Reading(NamedTuple):
    """The results of the client that reads many streams."""

    chunks: int
    """Number of chunks received, of all streams."""
    seconds: list[float]
    """Durations from the request to the last byte, of each complete stream, in ascending order."""
    busy: float
    """The share of its core that the client used."""

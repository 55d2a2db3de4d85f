"""How long to measure. The defaults are what the published figures were taken with."""

from typing import NamedTuple


class Plan(NamedTuple):
    rounds: int
    seconds: int
    """Of load, a turn."""
    requests: int
    """Until the memory of a worker is looked at again."""
    streams: int


CONNECTIONS = 32

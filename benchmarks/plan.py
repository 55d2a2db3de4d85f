"""How long to measure. The published figures were measured with the defaults."""

from typing import NamedTuple


class Plan(NamedTuple):
    rounds: int
    seconds: int
    """Of load in each turn."""
    requests: int
    """Before the memory of a worker is measured again."""
    streams: int


CONNECTIONS = 32

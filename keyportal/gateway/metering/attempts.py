"""What is kept of each route that a call took."""

from typing import NamedTuple


class Attempt(NamedTuple):
    """One route. Model servers are named, never addressed: people of the team see this."""

    upstream: str
    model: str
    """The model's name there."""
    outcome: str
    """The status of the answer, or the name of what failed."""
    milliseconds: int

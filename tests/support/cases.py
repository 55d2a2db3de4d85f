"""Many cases in one test, which share its fixtures and its sign-in."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def case(*parts: object) -> Iterator[None]:
    """Name the case in what fails inside: `with case(method, path):`."""
    try:
        yield
    except Exception as error:
        error.add_note(f"In the case: {', '.join(map(str, parts))}")
        raise

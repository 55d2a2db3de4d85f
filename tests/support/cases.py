"""Many cases in one test, which share its fixtures and its sign-in."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction


@contextmanager
def case(*parts: object) -> Iterator[None]:
    """Name the case in what fails inside: `with case(method, path):`."""
    try:
        yield
    except Exception as error:
        error.add_note(f"In the case: {', '.join(str(part)[:200] for part in parts)}")
        raise


@contextmanager
def own_case(*parts: object) -> Iterator[None]:
    """The same, and what the case changes in the database is undone."""
    with case(*parts), transaction.atomic():
        yield
        transaction.set_rollback(True)

"""What the admission thread asks its database."""

from typing import Any

from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.database import database

Statement = tuple[str, tuple[Any, ...]]
"""The SQL and its parameters."""


def statements_of(admission: Admission) -> list[Statement]:
    """From now on, in order."""
    seen: list[Statement] = []

    def watch() -> None:
        here = database()
        run = here.run

        def note(sql: str, *parameters: object) -> Any:
            seen.append((sql, parameters))
            return run(sql, *parameters)

        here.run = note  # type: ignore[method-assign]  # of this thread's connection alone

    admission._thread.submit(watch).result(60)
    return seen

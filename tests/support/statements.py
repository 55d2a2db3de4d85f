"""The SQL statements of the admission thread."""

from typing import Any

from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.database import database

Statement = tuple[str, tuple[Any, ...]]
"""SQL and parameters."""


def record_statements(admission: Admission) -> list[Statement]:
    """Return a list to which all further statements are added, in order."""
    statements: list[Statement] = []

    def patch() -> None:
        db = database()
        execute = db.execute

        def record(sql: str, *parameters: object) -> Any:
            statements.append((sql, parameters))
            return execute(sql, *parameters)

        db.execute = record  # type: ignore[method-assign]  # for this thread's connection only

    admission._thread.submit(patch).result(60)
    return statements

"""The database's clock, which all hosts share."""

from datetime import UTC, datetime

from django.db import connection

NOW = {
    "postgresql": "now()",
    # The format in which Django stores times.
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')",
}
"""The SQL of the current time, by vendor. Its percent signs are doubled, as beside parameters."""


def database_now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {NOW[connection.vendor]}", ())
        (now,) = cursor.fetchone()
    return now if isinstance(now, datetime) else datetime.fromisoformat(now).replace(tzinfo=UTC)

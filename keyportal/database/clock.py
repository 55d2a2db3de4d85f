"""The database's clock, which all hosts share."""

from datetime import UTC, datetime, timedelta

from django.db import connections

NOW = {
    "postgresql": "now()",
    # The format in which Django stores times.
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')",
}
"""The SQL of the current time, by vendor. Its percent signs are doubled, as beside parameters."""


def ago(vendor: str, age: timedelta) -> str:
    """The SQL of the time so long ago, in whole seconds."""
    seconds = int(age.total_seconds())
    if vendor == "postgresql":
        return f"now() - interval '{seconds} seconds'"
    return NOW[vendor].replace("'now'", f"'now', '-{seconds} seconds'")


def database_now(alias: str = "default") -> datetime:
    connection = connections[alias]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {NOW[connection.vendor]}", ())
        return as_time(cursor.fetchone()[0])


def as_time(value: datetime | str) -> datetime:
    """A time as a raw query returns it."""
    if isinstance(value, datetime):
        return value
    return datetime.fromisoformat(value).replace(tzinfo=UTC)

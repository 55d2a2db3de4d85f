"""Turns the running calls of a worker that was killed into usage; in the writer's thread.

Each worker writes its running calls once a second, with their tokens so far. A row that gets old
belongs to a worker that was killed, or that stopped and has recorded the end of its calls. So each
call is looked up in the call log before it is counted. A worker that comes back, which was only
frozen or cut off, looks up its old calls too, and does not count those again.
"""

import json
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from django.db import connections, transaction

from keyportal.gateway.metering.usage_sql import (
    LOST_CALLS_LOCK,
    LOST_SECONDS,
    PROCESS_LOST,
    CallRecord,
    write_lost_records,
)
from keyportal.gateway.metering.writer import ALIAS
from keyportal.usage.models import RunningCalls

SLICE = 100  # Rows of one transaction. Others wait for the next time.

_RUNNING_CALLS = RunningCalls._meta.db_table


def count_lost_calls(suspects: Collection[int], seconds: int = LOST_SECONDS) -> set[int]:
    """Count the calls in old rows that were old the last time too, and delete the rows.

    Returns the ids of the other old rows, the suspects of the next time. After an outage of the
    database all rows are old, until the workers that live have written theirs again.
    """
    connection = connections[ALIAS]
    with transaction.atomic(using=ALIAS), connection.cursor() as cursor:
        old = _old_rows(seconds)
        cursor.execute(f"SELECT id FROM {_RUNNING_CALLS} WHERE {old}", ())  # noqa: S608 - our own names
        ids = {row[0] for row in cursor.fetchall()}
        if lost := sorted(ids.intersection(suspects))[:SLICE]:
            if connection.vendor == "postgresql":
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOST_CALLS_LOCK])
            among = ", ".join(["%s"] * len(lost))
            cursor.execute(
                f"DELETE FROM {_RUNNING_CALLS} WHERE id IN ({among}) AND {old} "  # noqa: S608 - our own names
                "RETURNING team_slug, calls, written_at",
                lost,
            )
            rows = cursor.fetchall()
            write_lost_records(cursor, [record for row in rows for record in _records(*row)])
    return ids.difference(lost)


def _old_rows(seconds: int) -> str:
    """The condition, by the database's clock."""
    if connections[ALIAS].vendor == "postgresql":
        return f"written_at < now() - interval '{seconds} seconds'"
    # Doubled, as beside parameters.
    return f"written_at < strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '-{seconds} seconds')"


def _records(team_slug: str, calls: str, written_at: Any) -> list[CallRecord]:
    """The calls of one row, with what they had used when it was written.

    Their times are those of the database's clock.
    """
    if isinstance(written_at, str):  # SQLite
        written_at = datetime.fromisoformat(written_at).replace(tzinfo=UTC)
    return [
        CallRecord(
            call["request_id"],
            written_at.timestamp() - call["seconds"],
            team_slug,
            call["public_id"],
            call["owner_id"],
            call["endpoint"],
            call["model"],
            status=500,
            prompt_tokens=call["prompt"],
            completion_tokens=call["tokens"],
            is_estimated=True,
            duration_ms=int(call["seconds"] * 1000),
            address=call["address"],
            error_code=PROCESS_LOST,
            error_message="The process that served this call ended.",
        )
        for call in json.loads(calls)
    ]

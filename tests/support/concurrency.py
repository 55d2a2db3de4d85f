"""Actions at the same moment, each in a thread with its own database connection."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from django.core.exceptions import PermissionDenied
from django.db import connection

from keyportal.keys.exceptions import KeyActionError
from keyportal.keys.models import ApiKey
from keyportal.people.links import DeadLink
from keyportal.teams.access import Outsider
from keyportal.teams.membership.changes import Refused

REFUSALS = (
    KeyActionError,
    ApiKey.DoesNotExist,
    PermissionDenied,
    Outsider,
    Refused,
    DeadLink,
)


WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def run_concurrently(*actions: Callable[[], object]) -> list[object]:
    """Start all actions at the same moment; return the result or the refusal of each.

    Other exceptions are raised: a deadlock, for example, must not reach a user.
    """
    barrier = Barrier(len(actions))

    def run(action: Callable[[], object]) -> object:
        barrier.wait(timeout=60)
        try:
            return action()
        except REFUSALS as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(actions)) as threads:
        return list(threads.map(run, actions))


def is_lock_awaited() -> bool:
    """Whether another connection waits for a lock now, on PostgreSQL."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(WAITING)
        return bool(cursor.fetchone()[0])

"""Several at once, each in a thread with a connection of its own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from django.db import connection

from keyportal.keys.exceptions import KeyActionError
from keyportal.keys.models import ApiKey


def at_once(*acts: Callable[[], object]) -> list[object]:
    """What each returned, or how it was refused, all let go at the same moment.

    Anything else that one raises is raised: a deadlock, for one, is no answer to a person.
    """
    gate = Barrier(len(acts))

    def run(act: Callable[[], object]) -> object:
        gate.wait(timeout=60)
        try:
            return act()
        except (KeyActionError, ApiKey.DoesNotExist) as refusal:
            return refusal
        finally:
            connection.close()

    with ThreadPoolExecutor(len(acts)) as threads:
        return list(threads.map(run, acts))

"""What is done now and then by itself, in one worker of all, whichever has its turn.

In a thread of its own: it waits for mail servers and for locks, which neither the gateway's loop
nor its connections should. A daemon, since a mail server that never answers would keep the process
from ending; what is cut off that way is claimed in the database, and done again.
"""

import asyncio
import logging
import secrets
import threading

from django.conf import settings
from django.db import DatabaseError, connections

from keyportal.keys import expiry
from keyportal.keys.chores import Chore

PAUSE_SECONDS = 60.0
STOP_SECONDS = 2.0
REMINDERS = "reminders"

logger = logging.getLogger(__name__)


class Scheduler:
    """One per worker, made after the fork. Its name tells it from all others."""

    def __init__(self) -> None:
        self._worker = secrets.token_hex(8)
        self._has_ended = threading.Event()
        self._is_failing = False
        self._thread = threading.Thread(target=self._look_forever, name="scheduler", daemon=True)

    def start(self) -> None:
        if settings.SCHEDULER:
            self._thread.start()

    def end(self) -> None:
        """Begin nothing more."""
        self._has_ended.set()

    async def stop(self) -> None:
        """Let a mail that is on its way arrive, and be noted, if that takes but a moment."""
        self.end()
        for _ in range(int(STOP_SECONDS / 0.05)):
            if not self._thread.is_alive():
                return
            await asyncio.sleep(0.05)

    def _look_forever(self) -> None:
        while not self._has_ended.is_set():
            self._look()
            self._has_ended.wait(PAUSE_SECONDS)

    def _look(self) -> None:
        """A failure of the database is logged when it begins, not each minute."""
        try:
            self._do_what_is_due()
            self._is_failing = False
        except DatabaseError as error:
            if not self._is_failing:
                logger.warning("Nothing is scheduled for now: %s: %s", type(error).__name__, error)
            self._is_failing = True
        except Exception:
            logger.exception("Scheduled work failed; it is tried again.")
        finally:
            connections.close_all()  # This thread's.

    def _do_what_is_due(self) -> None:
        if Chore.objects.take(REMINDERS, self._worker):
            expiry.remind(may_go_on=self._may_go_on)
            Chore.objects.finish(REMINDERS, self._worker)

    def _may_go_on(self) -> bool:
        return not self._has_ended.is_set() and Chore.objects.keep(REMINDERS, self._worker)

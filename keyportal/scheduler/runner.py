"""What is done now and then by itself, in one worker of all, whichever has its turn; and mail,
which every worker sends as soon as it is in the outbox.

In a thread of its own: it waits for mail servers and for locks, which neither the gateway's loop
nor its connections should. A daemon, since a mail server that never answers would keep the process
from ending; what is cut off that way is claimed in the database, and done again.
"""

import asyncio
import logging
import secrets
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic

from django.conf import settings
from django.db import DatabaseError, connections

from keyportal.keys.rotation import bury_ended
from keyportal.notifications import outbox
from keyportal.notifications.reminders import remind
from keyportal.scheduler.models import ScheduledJob

PAUSE_SECONDS = 60.0
# Between two looks for mail that another process wrote, or that is to be tried again.
MAIL_SECONDS = 5.0
STOP_SECONDS = 2.0

Work = Callable[..., object]
"""Does all that is due, as long as `may_go_on()` says so."""
WORK: dict[str, Work] = {"burials of old secrets": bury_ended, "reminders": remind}

logger = logging.getLogger(__name__)


class Scheduler:
    """One per worker, made after the fork. Its name tells it from all others."""

    def __init__(self) -> None:
        self._worker = secrets.token_hex(8)
        self._has_ended = threading.Event()
        self._failing: set[str] = set()
        self._thread = threading.Thread(target=self._look_forever, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Begin nothing more."""
        self._has_ended.set()
        outbox.wake.set()

    async def stop(self) -> None:
        """Let a mail that is on its way arrive, and be noted, if that takes but a moment."""
        self.end()
        for _ in range(int(STOP_SECONDS / 0.05)):
            if not self._thread.is_alive():
                return
            await asyncio.sleep(0.05)

    def _look_forever(self) -> None:
        next_look = monotonic()
        while not self._has_ended.is_set():
            outbox.wake.clear()
            self._look("mail", self._send_mail)
            # An operator may leave the work to cron. Mail has to leave all the same: people wait
            # for a link that resets their password.
            if settings.SCHEDULER and monotonic() >= next_look:
                for name, work in WORK.items():
                    self._look(name, partial(self._do_if_due, name, work))
                next_look = monotonic() + PAUSE_SECONDS
            outbox.wake.wait(MAIL_SECONDS)

    def _send_mail(self) -> None:
        outbox.send_due(may_go_on=lambda: not self._has_ended.is_set())

    def _look(self, name: str, look: Callable[[], None]) -> None:
        """One that fails keeps no other back; a failure that lasts is logged once."""
        try:
            look()
            self._failing.discard(name)
        except (DatabaseError, outbox.MailServerDown) as error:
            if name not in self._failing:
                logger.warning("No %s for now: %s: %s", name, type(error).__name__, error)
            self._failing.add(name)
        except Exception:
            logger.exception("The %s failed; they are tried again.", name)
        finally:
            connections.close_all()  # This thread's.

    def _do_if_due(self, name: str, work: Work) -> None:
        def may_go_on() -> bool:
            return not self._has_ended.is_set() and ScheduledJob.objects.keep(name, self._worker)

        if not self._has_ended.is_set() and ScheduledJob.objects.take(name, self._worker):
            work(may_go_on=may_go_on)
            ScheduledJob.objects.finish(name, self._worker)

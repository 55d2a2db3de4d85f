"""Runs the scheduled jobs, each in one worker of all at a time, and sends mail in every worker.

Mail is sent as soon as it is in the outbox. All of this runs in a thread of its own, because it
waits for mail servers and for database locks, and must not block the gateway's event loop or its
connections. The thread is a daemon, so that a mail server that never answers can't keep the process
from ending; a step that is cut off is claimed in the database, and is done again.
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

from keyportal.catalog.former_names import forget_outlived
from keyportal.keys.programs import device_flow
from keyportal.keys.rotation import delete_expired_secrets
from keyportal.notifications import outbox
from keyportal.notifications.reminders import send_reminders
from keyportal.scheduler.models import ScheduledJob
from keyportal.teams.sign_in.sessions import delete_expired

PAUSE_SECONDS = 60.0
# Between two checks for mail that another process wrote, or that has to be retried.
MAIL_SECONDS = 5.0
STOP_SECONDS = 2.0

Job = Callable[..., object]
"""Does everything that is due, as long as `should_continue()` returns true."""
JOBS: dict[str, Job] = {
    "clean-up of old secrets": delete_expired_secrets,
    "reminders": send_reminders,
    "clean-up of sessions": delete_expired,
    "clean-up of programs' keys": device_flow.delete_expired,
    "end of former model names": forget_outlived,
}

logger = logging.getLogger(__name__)


class Scheduler:
    """One per worker, made after the fork. A random name identifies its worker."""

    def __init__(self) -> None:
        self._worker = secrets.token_hex(8)
        self._has_ended = threading.Event()
        self._failing: set[str] = set()
        self._thread = threading.Thread(target=self._run_forever, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Start no further job and no further mail."""
        self._has_ended.set()
        outbox.wake.set()

    async def stop(self) -> None:
        """End, and wait at most STOP_SECONDS for a mail that is being sent to be recorded."""
        self.end()
        for _ in range(int(STOP_SECONDS / 0.05)):
            if not self._thread.is_alive():
                return
            await asyncio.sleep(0.05)

    def _run_forever(self) -> None:
        jobs_due_at = monotonic()
        while not self._has_ended.is_set():
            outbox.wake.clear()
            self._run("mail", self._send_mail)
            # An operator may run the jobs by cron. Mail is sent here even then, because people wait
            # for a link that resets their password.
            if settings.SCHEDULER and monotonic() >= jobs_due_at:
                for name, job in JOBS.items():
                    self._run(name, partial(self._run_job_if_due, name, job))
                jobs_due_at = monotonic() + PAUSE_SECONDS
            outbox.wake.wait(MAIL_SECONDS)

    def _send_mail(self) -> None:
        outbox.send_due(should_continue=lambda: not self._has_ended.is_set())

    def _run(self, name: str, job: Callable[[], None]) -> None:
        """A job that fails does not stop the others. A failure that lasts is logged once."""
        try:
            job()
            self._failing.discard(name)
        except (DatabaseError, outbox.MailServerDown) as error:
            if name not in self._failing:
                logger.warning(
                    "The job %r fails and will be retried: %s: %s",
                    name,
                    type(error).__name__,
                    error,
                )
            self._failing.add(name)
        except Exception:
            logger.exception("The job %r failed and will be retried.", name)
        finally:
            connections.close_all()  # Those of this thread.

    def _run_job_if_due(self, name: str, job: Job) -> None:
        def should_continue() -> bool:
            return not self._has_ended.is_set() and ScheduledJob.objects.renew(name, self._worker)

        if not self._has_ended.is_set() and ScheduledJob.objects.acquire(name, self._worker):
            job(should_continue=should_continue)
            ScheduledJob.objects.release(name, self._worker)

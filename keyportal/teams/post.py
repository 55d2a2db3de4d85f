"""Mail leaves behind the answer: its time, or a mail server that is down for the 30 seconds that
we wait for one, would tell a stranger that there was somebody, or something, to write of.

A letter that the server doesn't take for now is tried again some times. How many wait has a bound,
and so has the time for which a process that ends waits for them: a mail server that is down uses up
no memory, and holds up no stop.
"""

import atexit
import logging
import threading
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count
from smtplib import SMTPNotSupportedError, SMTPRecipientsRefused, SMTPResponseException
from time import monotonic
from typing import NamedTuple

from django.core.mail import EmailMessage

logger = logging.getLogger(__name__)
MOST = 1000  # Letters; they are small, and no team has so many people to tell at once.
# Seconds before each further try. Servers that put off a sender they don't know want minutes.
PAUSES = (60.0, 600.0, 3600.0)
STOP_SECONDS = 10.0


class Waiting(NamedTuple):
    due: float
    number: int
    """Which came first, where two are due together."""
    letter: EmailMessage
    tries: int


class PostOffice:
    """One thread, which starts with the first letter, so after the fork."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Waiting] = []
        self._numbers = count()
        self._is_sending = False
        self._thread: threading.Thread | None = None

    def take(self, letter: EmailMessage, *, tries: int = 0) -> None:
        """Send it soon; one that was tried before, when its pause is over."""
        due = monotonic() + (PAUSES[tries - 1] if tries else 0)
        with self._changed:
            if len(self._waiting) >= MOST:
                # Its subject tells which one; to whom it was is for no log.
                logger.warning("%s mails wait; one is dropped: %s", MOST, letter.subject)
                return
            heappush(self._waiting, Waiting(due, next(self._numbers), letter, tries))
            self._changed.notify_all()
            if self._thread is None:
                # A daemon: whoever ends the process waits in `close`, and no longer than that.
                self._thread = threading.Thread(target=self._work, name="mail", daemon=True)
                self._thread.start()

    def finish(self, seconds: float) -> bool:
        """Wait, so long at most, until all that is due was tried; whether it was."""
        with self._changed:
            return self._changed.wait_for(self._has_nothing_to_do, seconds)

    def close(self) -> None:
        """The process ends: what is due now may leave, and what has to wait longer is lost."""
        self.finish(STOP_SECONDS)
        if left := len(self._waiting) + self._is_sending:
            logger.warning("Mails that were not sent before the process ended: %s.", left)

    def _work(self) -> None:
        while True:
            _deliver(self, self._next())

    def _next(self) -> Waiting:
        with self._changed:
            self._is_sending = False
            self._changed.notify_all()
            while not self._is_due():
                self._changed.wait(self._waiting[0].due - monotonic() if self._waiting else None)
            self._is_sending = True
            return heappop(self._waiting)

    def _is_due(self) -> bool:
        return bool(self._waiting) and self._waiting[0].due <= monotonic()

    def _has_nothing_to_do(self) -> bool:
        return not self._is_sending and not self._is_due()


post_office = PostOffice()
atexit.register(post_office.close)


def send_later(messages: Iterable[EmailMessage]) -> None:
    """Hand these over, each to be sent by itself; what goes wrong is in the log alone."""
    for message in messages:
        post_office.take(message)


def _deliver(office: PostOffice, one: Waiting) -> None:
    try:
        one.letter.send()
    except Exception as error:
        if _is_for_now(error) and one.tries < len(PAUSES):
            # What the server said of it may name people.
            logger.warning("A mail is tried again later: %s", type(error).__name__)
            office.take(one.letter, tries=one.tries + 1)
        else:
            # Nobody waits for it, so whatever went wrong would be lost without a word.
            logger.exception("A mail could not be sent; EMAIL_URL says where to.")


def _is_for_now(error: Exception) -> bool:
    """Whether the server gave a number from 400 to 499, or nothing was heard of it."""
    if isinstance(error, SMTPRecipientsRefused):
        return all(400 <= code < 500 for code, _ in error.recipients.values())
    if isinstance(error, SMTPResponseException):
        return 400 <= error.smtp_code < 500
    return isinstance(error, OSError) and not isinstance(error, SMTPNotSupportedError)

"""Sends the mail in the outbox, in the scheduler's thread of every worker.

A mail is normally sent once. If the process dies or the database fails after the mail server has
accepted the mail and before its row is deleted, it is sent twice; it is never lost. A mail that is
rejected permanently, or could not be sent for three days, is deleted with one line in the log.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from smtplib import SMTPDataError, SMTPNotSupportedError, SMTPRecipientsRefused

from django.conf import settings
from django.core.mail import get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db import connection

from keyportal.notifications.emails import one_line
from keyportal.notifications.models import QueuedMail

logger = logging.getLogger(__name__)
wake = threading.Event()
"""Set when this process has committed a mail, so that it is sent before the next poll."""


class MailServerDown(Exception):
    """The mail server can't be reached or refuses the login: no mail can be sent now."""


def send_due(*, should_continue: Callable[[], bool] = lambda: True) -> None:
    """Send all mail that is due, as long as `should_continue()` returns true.

    This can take minutes: `EMAIL_TIMEOUT` is the limit for one reply of the mail server. Raises
    `MailServerDown`; all mail that was not sent is tried again later.
    """
    transport = get_connection(settings.OUTBOX_EMAIL_BACKEND)
    try:
        while should_continue() and (mail := QueuedMail.objects.claim_next()) is not None:
            _send(mail, transport)
    finally:
        _close(transport)


def _send(mail: QueuedMail, transport: BaseEmailBackend) -> None:
    if not connection.in_atomic_block:
        connection.close()  # A slow mail server must not hold a connection of the pool.
    try:
        transport.open()
    except Exception as error:
        _try_again(mail, error)
        raise MailServerDown(_reason(error)) from None
    try:
        transport.send_messages([mail.message()])
    except Exception as error:
        _close(transport)
        if _is_final(error):
            mail.delete()
            _log_given_up(mail, error)
        else:
            _try_again(mail, error)
            logger.warning("A mail could not be sent and will be tried again: %s", _reason(error))
    else:
        mail.delete()


def _close(transport: BaseEmailBackend) -> None:
    with suppress(OSError):  # The base class of smtplib's errors.
        transport.close()


def _try_again(mail: QueuedMail, error: Exception) -> None:
    if not mail.postpone():
        _log_given_up(mail, error)


def _log_given_up(mail: QueuedMail, error: Exception) -> None:
    logger.error("A mail was given up: %s: %s", one_line(mail.subject), _reason(error))


def _is_final(error: Exception) -> bool:
    """Whether trying again is pointless.

    Errors that a wrong setting can cause, such as a refused sender, are tried again: an operator
    may correct the setting.
    """
    if isinstance(error, SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in error.recipients.values())
    if isinstance(error, SMTPDataError):
        return error.smtp_code >= 500
    return isinstance(error, SMTPNotSupportedError) or not isinstance(error, OSError)


def _reason(error: Exception) -> str:
    """The error without the mail server's text, which often contains addresses."""
    if isinstance(error, SMTPRecipientsRefused):
        reason = ", ".join(str(code) for code, _ in error.recipients.values())
    else:
        reason = str(getattr(error, "smtp_code", None) or getattr(error, "strerror", None) or "")
    return f"{type(error).__name__} {reason}".rstrip()

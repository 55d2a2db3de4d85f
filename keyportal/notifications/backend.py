"""Django's `EMAIL_BACKEND`: it writes mail into the outbox."""

from collections.abc import Sequence
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.db import DEFAULT_DB_ALIAS, transaction

from keyportal.notifications import outbox
from keyportal.notifications.models import QueuedMail


class OutboxBackend(BaseEmailBackend):
    """Writes mail into the outbox, in the open transaction on the connection `using`, if any.

    So the mail is sent if the transaction commits, and not if it is rolled back. The caller waits
    for one INSERT, never for a mail server.
    """

    def __init__(
        self, fail_silently: bool = False, *, using: str = DEFAULT_DB_ALIAS, **kwargs: Any
    ) -> None:
        super().__init__(fail_silently, **kwargs)
        self._using = using

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Queue one mail for each recipient, so that a refused address doesn't affect the others.

        Headers are not checked here but when the mail is sent: an invalid one must not undo the
        change that the mail is about. Raises ValueError for attachments and HTML, which Keyportal
        doesn't use.
        """
        if any(message.attachments or _is_html(message) for message in email_messages):
            raise ValueError("The outbox only takes plain text.")
        rows = [
            _queued_mail(message, to) for message in email_messages for to in message.recipients()
        ]
        QueuedMail.objects.using(self._using).bulk_create(rows)
        transaction.on_commit(outbox.wake.set, using=self._using)
        return len(email_messages)


def _is_html(message: EmailMessage) -> bool:
    return message.content_subtype != "plain" or bool(getattr(message, "alternatives", None))


def _queued_mail(message: EmailMessage, to: str) -> QueuedMail:
    return QueuedMail(
        to=to,
        from_email=message.from_email,
        subject=str(message.subject),
        body=str(message.body),
        headers=message.extra_headers,
    )

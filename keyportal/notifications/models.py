"""Reminders that were queued, and the outbox.

A reminder's row and its mail are written in one transaction. If several processes send reminders at
the same time, only one can insert the row, so each mail is queued once.
"""

from datetime import timedelta
from typing import ClassVar

from django.core.mail import EmailMessage
from django.db import models
from django.db.models import F
from django.db.models.functions import Now


class Reminder(models.Model):
    """One mail, or one to each of several admins. The row stays if the key is deleted."""

    public_id = models.CharField(max_length=8)
    expires_at = models.DateTimeField(help_text="A key whose expiry changes gets new reminders.")
    days = models.SmallIntegerField(help_text="Days before the expiry; 0: the key has expired.")
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["public_id", "expires_at", "days"], name="reminder_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.public_id} {self.days}"


# Longer than it takes to send one mail, with `EMAIL_TIMEOUT` for each reply of the mail server.
CLAIM_DURATION = timedelta(minutes=10)
MIN_RETRY_DELAY = timedelta(minutes=1)  # Greylisting mail servers expect a retry after minutes.
MAX_RETRY_DELAY = timedelta(hours=1)
MAX_DOUBLINGS = 6  # They exceed MAX_RETRY_DELAY; many more would overflow a timedelta.
# A mail server that is down over a weekend loses no mail. A password reset link is valid as long.
MAX_AGE = timedelta(days=3)


class QueuedMailQuerySet(models.QuerySet["QueuedMail"]):
    def claim_next(self) -> "QueuedMail | None":
        """Claim the mail that has been due the longest; None if none is due.

        Several processes may call this at the same time: only one of them gets each mail. If that
        process dies, the mail is due again when the claim ends.
        """
        while (mail := self.filter(due_at__lte=Now()).order_by("due_at").first()) is not None:
            unclaimed = self.filter(pk=mail.pk, tries=mail.tries)
            if unclaimed.update(tries=F("tries") + 1, due_at=Now() + CLAIM_DURATION):
                mail.tries += 1
                return mail
        return None


class QueuedMail(models.Model):
    """A mail in the outbox. It is deleted once it is sent or given up: it may contain a password
    reset link."""

    to = models.TextField()
    from_email = models.TextField()
    subject = models.TextField()
    body = models.TextField()
    headers = models.JSONField()
    created_at = models.DateTimeField(db_default=Now())
    due_at = models.DateTimeField(db_default=Now(), db_index=True)
    tries = models.SmallIntegerField(default=0)

    objects = QueuedMailQuerySet.as_manager()

    def __str__(self) -> str:
        return self.subject

    def message(self) -> EmailMessage:
        return EmailMessage(
            self.subject, self.body, self.from_email, [self.to], headers=self.headers
        )

    def postpone(self) -> bool:
        """Make it due again after a delay that doubles with each try, up to an hour.

        Returns false if it is too old: then it is deleted.
        """
        own = QueuedMail.objects.filter(pk=self.pk, tries=self.tries)
        deleted, _ = own.filter(created_at__lt=Now() - MAX_AGE).delete()
        doublings = min(self.tries - 1, MAX_DOUBLINGS)
        own.update(due_at=Now() + min(MIN_RETRY_DELAY * 2**doublings, MAX_RETRY_DELAY))
        return not deleted

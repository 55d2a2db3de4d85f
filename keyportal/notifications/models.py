"""Which reminders were given: the row is written in one transaction with the mail in the outbox.

Of several processes that remind at once, one gets the row in; so each mail is queued once.
"""

from datetime import timedelta
from typing import ClassVar

from django.core.mail import EmailMessage
from django.db import models
from django.db.models import F
from django.db.models.functions import Now


class Reminder(models.Model):
    """One mail, or one to each of several admins. It outlives the key that it names."""

    public_id = models.CharField(max_length=8)
    expires_at = models.DateTimeField(help_text="A key whose end is moved gets new reminders.")
    days = models.SmallIntegerField(help_text="Days before the end; 0: the key has expired.")
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["public_id", "expires_at", "days"], name="reminder_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.public_id} {self.days}"


# More than sending one mail takes, with `EMAIL_TIMEOUT` for each answer of a slow mail server.
CLAIM_DURATION = timedelta(minutes=10)
MIN_RETRY_DELAY = timedelta(minutes=1)  # Mail servers that put off unknown senders expect minutes.
MAX_RETRY_DELAY = timedelta(hours=1)
# A weekend with a broken mail server loses nothing. A link to reset a password works as long.
MAX_AGE = timedelta(days=3)


class QueuedMailQuerySet(models.QuerySet["QueuedMail"]):
    def claim_next(self) -> "QueuedMail | None":
        """Claim the mail that has been due the longest; None where none is due.

        Several processes may call this at once: each mail goes to one of them. If that process
        dies, the mail is due again when the claim is over.
        """
        while (mail := self.filter(due_at__lte=Now()).order_by("due_at").first()) is not None:
            unclaimed = self.filter(pk=mail.pk, tries=mail.tries)
            if unclaimed.update(tries=F("tries") + 1, due_at=Now() + CLAIM_DURATION):
                mail.tries += 1
                return mail
        return None


class QueuedMail(models.Model):
    """Deleted when it was sent or given up: the text may hold a link that resets a password."""

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
        """Let it be tried again after a pause that doubles with each try, up to an hour.

        False where it is too old for that: then it is deleted.
        """
        own = QueuedMail.objects.filter(pk=self.pk, tries=self.tries)
        deleted, _ = own.filter(created_at__lt=Now() - MAX_AGE).delete()
        own.update(due_at=Now() + min(MIN_RETRY_DELAY * 2 ** (self.tries - 1), MAX_RETRY_DELAY))
        return not deleted

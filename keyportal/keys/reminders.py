"""Which reminders were given: the row is written in one transaction with the mail in the outbox.

Of several processes that remind at once, one gets the row in; so each mail is queued once.
"""

from typing import ClassVar

from django.db import models


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

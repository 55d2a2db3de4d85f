"""What was told of the end of a key, and who is telling it now.

A row is claimed before a mail is sent and marked after: of several that come at once one claims
it, and what was sent is never sent again. Who dies between sending and marking has sent it for
nothing: when the claim is over, the mail goes out once more. It is lost in no case.
"""

from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models, transaction
from django.db.models import F, Q

# Far more than a letter takes, at 30 seconds for each word of a slow mail server.
CLAIM = timedelta(hours=1)
# After a refusal that is of this letter, not of the server: doubled each time, up to a day.
FIRST_PAUSE = timedelta(minutes=10)
LONGEST_PAUSE = timedelta(days=1)


class ReminderQuerySet(models.QuerySet["Reminder"]):
    def settled(self, now: datetime) -> "ReminderQuerySet":
        """Those that are told, or that somebody tells or lets rest now."""
        return self.filter(Q(told_at__isnull=False) | Q(claimed_until__gt=now))

    def claim(
        self, public_id: str, expires_at: datetime, days: int, now: datetime
    ) -> "Reminder | None":
        """Make it ours for an hour; None where it is settled."""
        what = {"public_id": public_id, "expires_at": expires_at, "days": days}
        with transaction.atomic():
            self.bulk_create([Reminder(**what, claimed_until=now)], ignore_conflicts=True)
            # Two that come at once wait for each other here, and the second finds it claimed.
            free = self.filter(**what, told_at=None, claimed_until__lte=now)
            if not free.update(claimed_until=now + CLAIM):
                return None
            return self.get(**what)


class Reminder(models.Model):
    """One mail, or one to each of several admins. It outlives the key that it names."""

    public_id = models.CharField(max_length=8)
    expires_at = models.DateTimeField(help_text="The end that it tells of; another is told anew.")
    days = models.SmallIntegerField(help_text="How many before it; 0: that it has come.")
    claimed_until = models.DateTimeField(help_text="Nobody else sends it before.")
    refusals = models.SmallIntegerField(default=0)
    told_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ReminderQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["public_id", "expires_at", "days"], name="reminder_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.public_id} {self.days}"

    def mark_told(self, now: datetime) -> None:
        self.told_at = now
        self.save(update_fields=["told_at"])

    def release(self, now: datetime) -> None:
        """Not sent, and not because of the letter: the next one may try at once."""
        self._claimed().update(claimed_until=now)

    def rest(self, now: datetime) -> None:
        """Refused: tried again, but ever less often."""
        pause = min(FIRST_PAUSE * 2**self.refusals, LONGEST_PAUSE)
        self._claimed().update(claimed_until=now + pause, refusals=F("refusals") + 1)

    def _claimed(self) -> ReminderQuerySet:
        """This row, unless our claim is over and somebody else has it."""
        return Reminder.objects.filter(pk=self.pk, claimed_until=self.claimed_until)

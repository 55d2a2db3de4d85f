"""Work that nobody asks for, done now and then by one worker of all hosts: whose turn it is.

A row says when the work is due. Whoever moves that on, to a time by which they will be seen
again, has it. Who dies is overtaken when that time comes; who finishes sets the next.
"""

from datetime import timedelta

from django.db import models
from django.utils import timezone

PERIOD = timedelta(minutes=10)
# More than the longest step, a mail to a slow server, is likely to take. What takes longer is
# begun by another, which is harmless: each step is claimed for itself.
TURN = timedelta(minutes=5)


class ScheduledJobQuerySet(models.QuerySet["ScheduledJob"]):
    def take(self, name: str, worker: str) -> bool:
        """Whether it is due, and now this worker's alone."""
        now = timezone.now()
        chore = self.filter(name=name).first()
        if chore is None:
            self.bulk_create([ScheduledJob(name=name, due_at=now)], ignore_conflicts=True)
        elif chore.due_at > now:
            return False  # As nearly always, and found out without a lock.
        due = self.filter(name=name, due_at__lte=now)
        return due.update(worker=worker, due_at=now + TURN) == 1

    def keep(self, name: str, worker: str) -> bool:
        """Whether it still is this worker's, as it is for some minutes more."""
        mine = self.filter(name=name, worker=worker)
        return mine.update(due_at=timezone.now() + TURN) == 1

    def finish(self, name: str, worker: str) -> None:
        mine = self.filter(name=name, worker=worker)
        mine.update(worker="", due_at=timezone.now() + PERIOD)


class ScheduledJob(models.Model):
    """One row for each kind of work."""

    name = models.CharField(max_length=32, unique=True)
    worker = models.CharField(max_length=32, blank=True, help_text="Who does it; empty: nobody.")
    due_at = models.DateTimeField()

    objects = ScheduledJobQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

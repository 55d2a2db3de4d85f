"""Scheduled jobs: which worker of all hosts runs one next.

A row says when its job is due. The worker that moves this time forward has the lease on the job.
If the worker dies, another one takes over when the lease ends. A worker that completes the job
releases the lease and sets the time of the next run.
"""

from datetime import timedelta

from django.db import models
from django.db.models.functions import Now

PERIOD = timedelta(minutes=10)
# Longer than the longest step, a mail to a slow server, is likely to take. If one takes longer, a
# second worker starts the job too, which does no harm: each step claims its own row.
LEASE = timedelta(minutes=5)


class ScheduledJobQuerySet(models.QuerySet["ScheduledJob"]):
    def acquire(self, name: str, worker: str) -> bool:
        """Take the lease on this job if it is due. Returns whether the worker has it now.

        Times are those of the database's clock, or a host whose clock is ahead would take leases
        from workers that are alive.
        """
        if not self.filter(name=name).exists():
            self.bulk_create([ScheduledJob(name=name, due_at=Now())], ignore_conflicts=True)
        due = self.filter(name=name, due_at__lte=Now())
        # Usually it is not due, and no lock is taken.
        return due.exists() and due.update(worker=worker, due_at=Now() + LEASE) == 1

    def renew(self, name: str, worker: str) -> bool:
        """Extend the worker's lease. Returns whether it still has it."""
        leased = self.filter(name=name, worker=worker)
        return leased.update(due_at=Now() + LEASE) == 1

    def release(self, name: str, worker: str) -> None:
        """End the worker's lease, after which the job is due again in PERIOD."""
        leased = self.filter(name=name, worker=worker)
        leased.update(worker="", due_at=Now() + PERIOD)


class ScheduledJob(models.Model):
    """One row for each job."""

    name = models.CharField(max_length=32, unique=True)
    worker = models.CharField(
        max_length=32, blank=True, help_text="The worker that has the lease; empty if none has."
    )
    due_at = models.DateTimeField()

    objects = ScheduledJobQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

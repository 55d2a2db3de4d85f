"""What counts against limits: requests and tokens by fixed window, and calls running now.

These rows are counters that admission keeps, shared by all workers and hosts. They have no
foreign keys, so deleting a key never waits for them, nor they for it.
"""

from datetime import UTC, datetime, timedelta
from typing import ClassVar

from django.db import models

LEASE_SECONDS = 10  # A worker that was not seen for so long has no calls any more.


class Kind(models.IntegerChoices):
    """A window's length. All are aligned to UTC."""

    EVER = 0, "Ever"  # One row a subject, whose lock is what parallel requests queue up for.
    MINUTE = 1, "Minute"
    DAY = 2, "Day"
    MONTH = 3, "Month"


def window_start(kind: int, now: datetime) -> datetime:
    """When the window of this kind began that `now` is in; both in UTC."""
    if kind == Kind.EVER:
        return datetime.fromtimestamp(0, UTC)
    minute = now.replace(second=0, microsecond=0)
    if kind == Kind.MINUTE:
        return minute
    day = minute.replace(hour=0, minute=0)
    return day if kind == Kind.DAY else day.replace(day=1)


def window_end(kind: int, now: datetime) -> datetime:
    """When it ends, and the next begins."""
    if kind == Kind.EVER:
        return datetime.max.replace(tzinfo=UTC)
    start = window_start(kind, now)
    if kind == Kind.MONTH:
        return (start + timedelta(days=31)).replace(day=1)
    return start + (timedelta(minutes=1) if kind == Kind.MINUTE else timedelta(days=1))


# `window_start` by the database's clock, of a column `kind`, in a statement that has parameters.
START_POSTGRESQL = f"""
CASE kind WHEN {Kind.MINUTE} THEN date_trunc('minute', now(), 'UTC')
          WHEN {Kind.DAY} THEN date_trunc('day', now(), 'UTC')
          WHEN {Kind.MONTH} THEN date_trunc('month', now(), 'UTC')
          ELSE 'epoch'::timestamptz END
"""
# Times are text here, as Django writes and reads them.
START_SQLITE = f"""
CASE kind WHEN {Kind.MINUTE} THEN strftime('%%Y-%%m-%%d %%H:%%M:00', 'now')
          WHEN {Kind.DAY} THEN strftime('%%Y-%%m-%%d 00:00:00', 'now')
          WHEN {Kind.MONTH} THEN strftime('%%Y-%%m-01 00:00:00', 'now')
          ELSE '1970-01-01 00:00:00' END
"""


def key_subject(public_id: str) -> str:
    return f"key:{public_id}"


def team_subject(slug: str) -> str:
    return f"team:{slug}"


class Window(models.Model):
    """What one subject, a key or a team, used in one window."""

    subject = models.CharField(max_length=72)
    kind = models.SmallIntegerField(choices=Kind)
    start = models.DateTimeField()
    requests = models.BigIntegerField(default=0)
    tokens = models.BigIntegerField(default=0)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["subject", "kind", "start"], name="window_unique")
        ]
        indexes: ClassVar = [models.Index(fields=["kind", "start"], name="window_by_age")]

    def __str__(self) -> str:
        return f"{self.subject} {self.kind} {self.start}"


class Lease(models.Model):
    """How many calls of one subject run in one worker; only for subjects with such a limit.

    The worker renews it while it has calls. One that was not seen for a while holds none any more.
    """

    subject = models.CharField(max_length=72)
    worker = models.CharField(max_length=32)
    calls = models.IntegerField()
    seen_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["subject", "worker"], name="lease_unique")
        ]
        indexes: ClassVar = [models.Index(fields=["worker"], name="lease_by_worker")]

    def __str__(self) -> str:
        return f"{self.subject} {self.worker}"

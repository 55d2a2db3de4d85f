"""Counters of limits: requests and tokens per fixed window, and running calls.

Admission updates these rows, which all workers and hosts share. They have no foreign keys, so the
deletion of a key and the counters never wait for each other.
"""

from datetime import UTC, datetime, timedelta
from typing import ClassVar

from django.db import models

LEASE_SECONDS = 10  # After so long without a renewal, a worker's calls no longer count.


class Kind(models.IntegerChoices):
    """The length of a window. Windows are aligned to UTC."""

    EVER = 0, "Ever"  # One row per subject; concurrent requests wait for its lock.
    MINUTE = 1, "Minute"
    DAY = 2, "Day"
    MONTH = 3, "Month"


def window_start(kind: int, now: datetime) -> datetime:
    """Start of the window of this kind that contains `now`; both in UTC."""
    if kind == Kind.EVER:
        return datetime.fromtimestamp(0, UTC)
    minute = now.replace(second=0, microsecond=0)
    if kind == Kind.MINUTE:
        return minute
    day = minute.replace(hour=0, minute=0)
    return day if kind == Kind.DAY else day.replace(day=1)


def window_end(kind: int, now: datetime) -> datetime:
    """End of that window, which is the start of the next one."""
    if kind == Kind.EVER:
        return datetime.max.replace(tzinfo=UTC)
    start = window_start(kind, now)
    if kind == Kind.MONTH:
        return (start + timedelta(days=31)).replace(day=1)
    return start + (timedelta(minutes=1) if kind == Kind.MINUTE else timedelta(days=1))


# `window_start` in SQL, by the database's clock, for a column `kind`. For statements with
# parameters, so `%` is doubled.
START_POSTGRESQL = f"""
CASE kind WHEN {Kind.MINUTE} THEN date_trunc('minute', now(), 'UTC')
          WHEN {Kind.DAY} THEN date_trunc('day', now(), 'UTC')
          WHEN {Kind.MONTH} THEN date_trunc('month', now(), 'UTC')
          ELSE 'epoch'::timestamptz END
"""
# SQLite stores times as text, in the format of Django.
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
    """What one subject, a key or a team, has used in one window."""

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
    """The number of running calls of one subject in one worker, if the subject has such a limit.

    The worker renews it while calls run. It expires `LEASE_SECONDS` after `renewed_at`.
    """

    subject = models.CharField(max_length=72)
    worker = models.CharField(max_length=32)
    calls = models.IntegerField()
    renewed_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["subject", "worker"], name="lease_unique")
        ]
        indexes: ClassVar = [models.Index(fields=["worker"], name="lease_by_worker")]

    def __str__(self) -> str:
        return f"{self.subject} {self.worker}"

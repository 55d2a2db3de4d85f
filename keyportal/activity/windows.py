"""What counts against limits: requests and tokens by fixed window, and calls running now.

These rows are counters that admission keeps, shared by all workers and hosts. They have no
foreign keys, so deleting a key never waits for them, nor they for it.
"""

from typing import ClassVar

from django.db import models

LEASE_SECONDS = 10  # A worker that was not seen for so long has no calls any more.


class Kind(models.IntegerChoices):
    """A window's length. All are aligned to UTC."""

    EVER = 0, "Ever"  # One row a subject, whose lock is what parallel requests queue up for.
    MINUTE = 1, "Minute"
    DAY = 2, "Day"
    MONTH = 3, "Month"


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

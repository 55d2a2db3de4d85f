"""What makes the gateway suspicious of how a key is used, and what it has told of already.

Gathered together by all workers and hosts; nearly all rows are thrown away soon after.
"""

from typing import ClassVar

from django.db import models

STRETCH_SECONDS = 300  # This one and the one before are looked at: five to ten minutes.


class Sighting(models.Model):
    """Of one key in one stretch of five minutes: that it came from a network, or refusals.

    `what` is a network such as `192.0.2.0/24`, or empty for requests that were refused and bore
    the key's public id: with a wrong secret, or with the right one while the key must not pass,
    or from where it must not.
    """

    public_id = models.CharField(max_length=8)
    start = models.DateTimeField()
    what = models.CharField(max_length=43, blank=True)
    count = models.BigIntegerField(default=1)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["public_id", "start", "what"], name="sighting_unique")
        ]

    def __str__(self) -> str:
        return f"{self.public_id} {self.what}"


class Look(models.Model):
    """A key looked at what there is to call, or at itself, from a network: no call, so it has no
    row among those. One row a day (UTC), of the first time on it; kept for as long as calls.
    """

    team_slug = models.CharField(max_length=64)
    public_id = models.CharField(max_length=8)
    network = models.CharField(max_length=43)
    start = models.DateTimeField(help_text="Of the day.")
    seen_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["public_id", "start", "network"], name="look_unique")
        ]
        indexes: ClassVar = [
            models.Index(fields=["team_slug", "-seen_at", "-id"], name="look_by_team")
        ]

    def __str__(self) -> str:
        return f"{self.public_id} {self.network}"


class Alarm(models.Model):
    """People were told this of a key; the row keeps all workers from telling them again."""

    public_id = models.CharField(max_length=8)
    action = models.CharField(max_length=40)
    raised_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["public_id", "action"], name="alarm_unique")
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.public_id}"

"""What makes the gateway suspicious of how a key is used, and what it has told of already.

Gathered together by all workers and hosts; nearly all rows are thrown away soon after.
"""

from datetime import timedelta
from typing import ClassVar

from django.db import connections, models
from django.utils import timezone

INTERVAL_SECONDS = 300  # This one and the one before are looked at: five to ten minutes.
ALARM_INTERVAL = timedelta(hours=1)  # Between two notices of one kind about one key.


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
        indexes: ClassVar = [models.Index(fields=["start"], name="sighting_by_age")]

    def __str__(self) -> str:
        return f"{self.public_id} {self.what}"


class Look(models.Model):
    """From a network, a key looked at what there is to call, or at itself, or was verified as one
    of very many: what has no row among the calls. One row a day (UTC), of the first time on it;
    kept for as long as calls.
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
            models.Index(fields=["team_slug", "-seen_at", "-id"], name="look_by_team"),
            models.Index(fields=["seen_at"], name="look_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.public_id} {self.network}"


class AlarmQuerySet(models.QuerySet["Alarm"]):
    def raise_once(self, public_id: str, action: str) -> bool:
        """Whether people are to be told now: not if they were within the hour.

        Of several that ask at one time, one gets True. The others wait for its transaction.
        """
        now, connection = timezone.now(), connections[self.db]
        adapt = connection.ops.adapt_datetimefield_value
        with connection.cursor() as cursor:
            cursor.execute(
                _RAISE, [public_id, str(action), adapt(now), adapt(now - ALARM_INTERVAL)]
            )
            return bool(cursor.rowcount)


class Alarm(models.Model):
    """People were told this of a key; the row keeps all workers from telling them again."""

    public_id = models.CharField(max_length=8)
    action = models.CharField(max_length=40)
    raised_at = models.DateTimeField()

    objects = AlarmQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["public_id", "action"], name="alarm_unique")
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.public_id}"


_ALARMS = Alarm._meta.db_table
_RAISE = f"""
INSERT INTO {_ALARMS} (public_id, action, raised_at) VALUES (%s, %s, %s)
ON CONFLICT (public_id, action) DO UPDATE SET raised_at = excluded.raised_at
WHERE {_ALARMS}.raised_at <= %s
"""  # noqa: S608 - our own names

"""Signs that a key has leaked, and the alarms that were raised.

All workers and hosts write these rows; most are deleted soon after.
"""

from datetime import timedelta
from typing import ClassVar

from django.db import connections, models

from keyportal.database.clock import NOW, ago

INTERVAL_SECONDS = 300  # The current and the previous interval are checked: 5 to 10 minutes.
ALARM_INTERVAL = timedelta(hours=1)  # Minimum time between two alarms of one kind about one key.


class Sighting(models.Model):
    """A network that used a key, or the number of its refused requests, in a 5-minute interval.

    `network` is such as `192.0.2.0/24`. It is empty for refused requests with the key's
    public id: those with a wrong secret, and those with the right one when the key is disabled or
    expired, or used from outside its allowed networks.
    """

    public_id = models.CharField(max_length=8)
    start = models.DateTimeField()
    network = models.CharField(max_length=43, blank=True)
    count = models.BigIntegerField(default=1)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["public_id", "start", "network"], name="sighting_unique"
            )
        ]
        indexes: ClassVar = [models.Index(fields=["start"], name="sighting_by_age")]

    def __str__(self) -> str:
        return f"{self.public_id} {self.network}"


class NetworkUse(models.Model):
    """The use of a key from a network without a `Call`, at most one row per day (UTC).

    Such uses list the models, read the key's own state, or are calls by forward authentication
    when there are too many to store each. `first_used_at` is the first use of the day. Kept as
    long as calls.
    """

    team_slug = models.CharField(max_length=64)
    public_id = models.CharField(max_length=8)
    network = models.CharField(max_length=43)
    start = models.DateTimeField(help_text="Start of the day.")
    first_used_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["public_id", "start", "network"], name="networkuse_unique"
            )
        ]
        indexes: ClassVar = [
            models.Index(fields=["team_slug", "-first_used_at", "-id"], name="networkuse_by_team"),
            models.Index(fields=["first_used_at"], name="networkuse_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.public_id} {self.network}"


class AlarmQuerySet(models.QuerySet["Alarm"]):
    def raise_once(self, public_id: str, action: str) -> bool:
        """Record the alarm; False if the same one was raised within `ALARM_INTERVAL`.

        Of concurrent callers, one gets True; the others wait for its transaction.
        """
        connection = connections[self.db]
        vendor = connection.vendor
        statement = _RAISE.format(now=NOW[vendor], before=ago(vendor, ALARM_INTERVAL))
        with connection.cursor() as cursor:
            cursor.execute(statement, [public_id, str(action)])
            return bool(cursor.rowcount)


class Alarm(models.Model):
    """The last alarm of one kind about a key. It keeps other workers from repeating the alarm."""

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
INSERT INTO {_ALARMS} (public_id, action, raised_at) VALUES (%s, %s, {{now}})
ON CONFLICT (public_id, action) DO UPDATE SET raised_at = excluded.raised_at
WHERE {_ALARMS}.raised_at <= {{before}}
"""  # noqa: S608 - our own names

"""Calls in flight, which each worker writes once a second, and requests to end one."""

from datetime import timedelta
from typing import Any, ClassVar, Self

from django.db import models
from django.db.models.functions import Now

from keyportal.teams.models import Team

STALE_AFTER = timedelta(seconds=5)


class RunningCallsQuerySet(models.QuerySet["RunningCalls"]):
    def for_team(self, team: Team) -> Self:
        """Without rows of stopped workers, which leave their last row behind.

        Their age is by the database's clock, which all hosts share.
        """
        return self.filter(team_slug=team.history_slug, written_at__gte=Now() - STALE_AFTER)

    def calls(self) -> list[dict[str, Any]]:
        """The calls of all workers, the longest running first; `since` by the database's clock."""
        calls = [
            call | {"since": row.written_at - timedelta(seconds=call["seconds"])}
            for row in self
            for call in row.calls
        ]
        return sorted(calls, key=lambda call: (call["since"], call["id"]))


class RunningCalls(models.Model):
    """The running calls of one team in one worker. The worker replaces the row as a whole.

    `calls` is a list of objects: `id`, `request_id` (as in `Call` and the logs), `public_id`,
    `owner_id`, `model`, `endpoint`, `seconds` (since it began),
    `prompt` and `tokens` (prompt and completion tokens so far) and `address`. Calls shorter than a
    second are never written. A row older than `STALE_AFTER` belongs to a worker that has stopped;
    see `lost_calls.py`.
    """

    worker = models.CharField(max_length=32)
    team_slug = models.CharField(max_length=64)
    calls = models.JSONField(default=list)
    written_at = models.DateTimeField()

    objects = RunningCallsQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["team_slug", "worker"], name="runningcalls_unique")
        ]

    def __str__(self) -> str:
        return f"{self.team_slug} {self.worker}"


class EndRequest(models.Model):
    """An admin's request to end a call. The worker that serves it ends it within about a second."""

    team_slug = models.CharField(max_length=64)
    call_id = models.CharField(max_length=128)
    requested_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["team_slug", "call_id"], name="endrequest_unique")
        ]

    def __str__(self) -> str:
        return self.call_id

"""Calls in flight, as each worker writes them down once a second, and the wish to end one."""

from datetime import timedelta
from typing import Any, ClassVar, Self

from django.db import models
from django.utils import timezone

from keyportal.teams.models import Team

STALE_AFTER = timedelta(seconds=5)


class RunningQuerySet(models.QuerySet["Running"]):
    def for_team(self, team: Team) -> Self:
        """Those of workers that are there; a worker that has gone leaves its last row behind."""
        return self.filter(team_slug=team.slug, written_at__gte=timezone.now() - STALE_AFTER)

    def calls(self) -> list[dict[str, Any]]:
        """The calls of all workers, the longest running first."""
        found = [call for row in self for call in row.calls]
        return sorted(found, key=lambda call: (call["since"], call["id"]))


class Running(models.Model):
    """The calls of one team that run in one worker, in one row that is written as a whole.

    `calls` is a list of objects: `id`, `request_id` (by which `Call` and the logs know it),
    `public_id`, `model`, `endpoint`, `since` (seconds since 1970), `tokens` (completion
    tokens so far) and `address`. Calls of less than a second never get here. A row that is older
    than a few seconds is of a worker that has gone.
    """

    worker = models.CharField(max_length=32)
    team_slug = models.CharField(max_length=64)
    calls = models.JSONField(default=list)
    written_at = models.DateTimeField()

    objects = RunningQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["team_slug", "worker"], name="running_unique")
        ]

    def __str__(self) -> str:
        return f"{self.team_slug} {self.worker}"


class EndWish(models.Model):
    """An admin wants this call to end; the worker that has it does so within about a second."""

    team_slug = models.CharField(max_length=64)
    call_id = models.CharField(max_length=128)
    wished_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["team_slug", "call_id"], name="endwish_unique")
        ]

    def __str__(self) -> str:
        return self.call_id

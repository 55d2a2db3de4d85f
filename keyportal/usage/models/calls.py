"""Calls, and sums of usage by minute, hour and day.

Calls are kept for some days, sums as their classes say. There are no foreign keys, so usage
outlives the key, its owner and the model. Prompts and answers are never stored.
"""

from datetime import datetime
from typing import ClassVar, Self

from django.db import models

from keyportal.teams.models import Team

# Upper bounds, in ms, of the buckets of the latency histogram. A last bucket has no bound.
LATENCY_BOUNDS_MS = (50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000)
LATENCY_COLUMNS = tuple(f"latency_{number}" for number in range(len(LATENCY_BOUNDS_MS) + 1))


class CallQuerySet(models.QuerySet["Call"]):
    def for_team(self, team: Team) -> Self:
        return self.filter(team_slug=team.history_slug)

    def with_status_class(self, status_class: str) -> Self:
        """`status_class` is the first digit of the HTTP status; empty for all calls."""
        if not status_class:
            return self
        first = int(status_class) * 100
        return self.filter(status__gte=first, status__lt=first + 100)


class Call(models.Model):
    """One call that passed admission, whether or not it succeeded."""

    request_id = models.CharField(max_length=128)
    started_at = models.DateTimeField()
    team_slug = models.CharField(max_length=64)
    public_id = models.CharField(max_length=8)
    owner_id = models.BigIntegerField(help_text="The user id of the key's owner at that time.")
    endpoint = models.CharField(max_length=40)
    model = models.CharField(max_length=200, blank=True, help_text="Empty: the call has no model.")
    status = models.PositiveSmallIntegerField()
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(
        default=0, help_text="Prompt tokens that the model server read from its cache."
    )
    cache_write_tokens = models.PositiveIntegerField(
        default=0, help_text="Prompt tokens that the model server wrote to its cache."
    )
    cache_write_1h_tokens = models.PositiveIntegerField(
        default=0, help_text="Those of them that it keeps for an hour, not for five minutes."
    )
    reasoning_tokens = models.PositiveIntegerField(
        default=0, help_text="Completion tokens that the model used to think."
    )
    audio_prompt_tokens = models.PositiveIntegerField(default=0)
    audio_completion_tokens = models.PositiveIntegerField(default=0)
    image_prompt_tokens = models.PositiveIntegerField(default=0)
    image_completion_tokens = models.PositiveIntegerField(default=0)
    images = models.PositiveIntegerField(default=0, help_text="Images that were generated.")
    service_tier = models.CharField(
        max_length=20, blank=True, help_text="As the model server names it; prices depend on it."
    )
    is_estimated = models.BooleanField(
        default=False, help_text="The model server didn't report the tokens, so they are estimated."
    )
    first_byte_ms = models.PositiveIntegerField(null=True)
    duration_ms = models.PositiveIntegerField()
    address = models.GenericIPAddressField(null=True)
    user_agent = models.CharField(max_length=200, blank=True)
    error_code = models.CharField(
        max_length=64, blank=True, help_text="Of the gateway's own error; empty without one."
    )
    error_message = models.CharField(max_length=500, blank=True)
    attempts = models.TextField(
        blank=True,
        help_text="JSON: model server, model there, outcome and ms of each route in turn.",
    )

    objects = CallQuerySet.as_manager()

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["team_slug", "-started_at", "-id"], name="call_by_team"),
            models.Index(fields=["started_at"], name="call_by_age"),
            models.Index(fields=["team_slug", "request_id"], name="call_by_request"),
        ]

    def __str__(self) -> str:
        return self.request_id


class UsageQuerySet(models.QuerySet["Usage"]):
    def for_team(self, team: Team) -> Self:
        return self.filter(team_slug=team.history_slug)

    def within(self, start: datetime, end: datetime) -> Self:
        """From `start` to `end`, without `end`."""
        return self.filter(start__gte=start, start__lt=end)


class Usage(models.Model):
    """Sums of one key, owner and model in the interval that begins at `start`, in UTC."""

    start = models.DateTimeField()
    team_slug = models.CharField(max_length=64)
    public_id = models.CharField(max_length=8)
    owner_id = models.BigIntegerField(help_text="The user id of the key's owner at that time.")
    model = models.CharField(max_length=200, blank=True)
    requests = models.BigIntegerField(default=0)
    failures = models.BigIntegerField(
        default=0, help_text="Calls with a status of 400 or above, or cut off."
    )
    prompt_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    cache_write_tokens = models.BigIntegerField(default=0)
    cache_write_1h_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    audio_prompt_tokens = models.BigIntegerField(default=0)
    audio_completion_tokens = models.BigIntegerField(default=0)
    image_prompt_tokens = models.BigIntegerField(default=0)
    image_completion_tokens = models.BigIntegerField(default=0)
    images = models.BigIntegerField(default=0)
    estimated_requests = models.BigIntegerField(
        default=0, help_text="Requests whose tokens are estimated."
    )
    duration_ms = models.BigIntegerField(default=0)
    latency_0 = models.BigIntegerField(default=0)
    latency_1 = models.BigIntegerField(default=0)
    latency_2 = models.BigIntegerField(default=0)
    latency_3 = models.BigIntegerField(default=0)
    latency_4 = models.BigIntegerField(default=0)
    latency_5 = models.BigIntegerField(default=0)
    latency_6 = models.BigIntegerField(default=0)
    latency_7 = models.BigIntegerField(default=0)
    latency_8 = models.BigIntegerField(default=0)
    latency_9 = models.BigIntegerField(default=0)
    latency_10 = models.BigIntegerField(default=0)
    latency_11 = models.BigIntegerField(default=0)

    objects = UsageQuerySet.as_manager()

    class Meta:
        abstract = True
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["team_slug", "start", "public_id", "owner_id", "model"],
                name="%(class)s_unique",
            )
        ]
        indexes: ClassVar = [
            models.Index(fields=["public_id", "start"], name="%(class)s_by_key"),
            models.Index(fields=["start"], name="%(class)s_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.public_id} {self.start}"


class UsageMinute(Usage):
    """Kept for 48 hours."""


class UsageHour(Usage):
    """Kept for a little more than 90 days."""


class UsageDay(Usage):
    """Kept forever: long periods and monthly costs are summed from these."""


class Flush(models.Model):
    """The id of a flush that was committed, so that a retry of it is not counted twice."""

    flush_id = models.CharField(max_length=40, unique=True)
    committed_at = models.DateTimeField(auto_now_add=True, db_index=True)

    def __str__(self) -> str:
        return self.flush_id

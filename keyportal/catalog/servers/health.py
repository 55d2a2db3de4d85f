"""The health of model servers as all workers have met it, for pages.

Each worker writes one row: when a server begins to fail or is back, and else once a minute, so that
a row which is older belongs to a worker that has ended.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from django.db import models
from django.db.models.functions import Now

from keyportal.catalog.circuit_breaker import REFUSES_CREDENTIAL

BEAT_SECONDS = 60.0
STALE_AFTER = timedelta(seconds=150)
# What a server did, for people. A number is the status of its answer.
_FAILURES = {
    "UpstreamFailed": "could not be reached or broke off its answer",
    "UpstreamConnectTimeout": "took too long to take the connection",
    "UpstreamTimedOut": "took too long to answer",
}


class WorkerHealth(models.Model):
    """What one worker has met. `servers` has an object for each server that it has called, by
    `Upstream.fingerprint`: `failing_for` (seconds; null if it does not fail), `last_failure`,
    `has_answered` and `refusals` (by the models' names on the server).
    """

    worker = models.CharField(max_length=32, unique=True)
    servers = models.JSONField(default=dict)
    written_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.worker


@dataclass
class ServerHealth:
    """One server, as met by all workers."""

    worker_count: int = 0
    """Those that run, also without a call to it."""
    answer_count: int = 0
    """Those that got answers and see no failure now."""
    failure_count: int = 0
    """Those that see it fail now."""
    since: datetime | None = None
    """Since when it fails."""
    failures: set[str] = field(default_factory=set)
    """What they met last: a status or an exception's name, for operators."""
    refusals: dict[str, str] = field(default_factory=dict)

    def add(self, sight: Mapping[str, Any], written_at: datetime) -> None:
        if sight["last_failure"]:
            self.failures.add(sight["last_failure"])
        self.refusals |= sight["refusals"]
        if sight["failing_for"] is None:
            self.answer_count += sight["has_answered"]
            return
        since = written_at - timedelta(seconds=sight["failing_for"])
        self.since = min(since, self.since or since)
        self.failure_count += 1

    def refusal_of(self, model: str) -> str:
        """What is refused for this model; empty for nothing."""
        if refusal := self.refusals.get(model, ""):
            return refusal
        # It is the same credential for all models.
        is_credential = self.failure_count and REFUSES_CREDENTIAL in self.refusals.values()
        return REFUSES_CREDENTIAL if is_credential else ""

    @property
    def last_failures(self) -> str:
        return ", ".join(
            f"answered {each}" if each.isdigit() else _FAILURES.get(each, each)
            for each in sorted(self.failures)
        )

    @property
    def workers(self) -> str:
        """Which workers see what its state says; empty if only one runs."""
        count = self.failure_count or self.answer_count
        if count == self.worker_count:
            return f"all {count} workers" if count > 1 else ""
        return f"{count} of {self.worker_count} workers"

    @property
    def state(self) -> str:
        if self.failure_count:
            return "Fails"
        if self.refusals:
            return "Refuses"
        return "Answers" if self.answer_count else "Not called yet"

    @property
    def details(self) -> str:
        """Beside the state, for operators."""
        parts = [f"{what}: {model}" for model, what in sorted(self.refusals.items())]
        if self.failure_count:
            where = f"on {self.workers}, " if self.workers else ""
            parts.insert(0, f"{where}{self.last_failures}")
        elif self.answer_count and self.workers:
            parts.insert(0, f"reached by {self.workers}")
        return "; ".join(parts)

    def __str__(self) -> str:
        return f"{self.state} ({self.details})" if self.details else self.state


@dataclass(frozen=True)
class ModelHealth:
    """The health of all servers of one model, without saying which ones fail."""

    text: str
    since: datetime | None = None

    def __str__(self) -> str:
        return self.text


class Health:
    """Of all servers, at one time."""

    def __init__(self, rows: Iterable[WorkerHealth]) -> None:
        self._servers: dict[str, ServerHealth] = {}
        rows = tuple(rows)
        self._worker_count = len(rows)
        for row in rows:
            for fingerprint, sight in row.servers.items():
                server = self._servers.setdefault(fingerprint, ServerHealth(len(rows)))
                server.add(sight, row.written_at)

    @classmethod
    def read(cls) -> Self:
        """Of the workers that run. Their rows' age is by the database's clock."""
        return cls(WorkerHealth.objects.filter(written_at__gte=Now() - STALE_AFTER))

    def of_server(self, fingerprint: str) -> ServerHealth:
        return self._servers.get(fingerprint) or ServerHealth(self._worker_count)

    def of_model(self, routes: Iterable[tuple[str, str]]) -> ModelHealth:
        """A route is the fingerprint of a server, and the model's name there."""
        routes = tuple(routes)
        servers = {fingerprint: self.of_server(fingerprint) for fingerprint, _ in routes}
        refusals = {
            fingerprint: what
            for fingerprint, model in routes
            if (what := servers[fingerprint].refusal_of(model))
        }
        failing = [
            server
            for fingerprint, server in servers.items()
            if server.failure_count or fingerprint in refusals
        ]
        if not failing:
            has_answered = any(server.answer_count for server in servers.values())
            return ModelHealth("Answers" if has_answered else "Not called yet")
        text = "Fails"
        if len(failing) < len(servers):
            text = f"{len(failing)} of {len(servers)} servers fail"
        reason = "".join(f": {what}" for what in sorted(set(refusals.values())))
        times = [server.since for server in failing if server.since]
        return ModelHealth(text + _where(failing) + reason, min(times, default=None))


def _where(failing: list[ServerHealth]) -> str:
    """On which workers, if not on all."""
    if all(server.failure_count in {0, server.worker_count} for server in failing):
        return ""
    return f" on {failing[0].workers}" if len(failing) == 1 else " on some workers"

"""What workers have met of model servers, as they write it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db.models.functions import Now

from keyportal.catalog.models import Upstream
from keyportal.catalog.servers.health import WorkerHealth


def sight(
    failing_for: float | None = None, last_failure: str = "", **refusals: str
) -> dict[str, Any]:
    return {
        "failing_for": failing_for,
        "last_failure": last_failure,
        "has_answered": True,
        "refusals": refusals,
    }


def report(worker: str, servers: Mapping[Upstream, dict[str, Any]], *, age: float = 0) -> None:
    values = {server.fingerprint: seen for server, seen in servers.items()}
    written_at = Now() - timedelta(seconds=age)
    defaults = {"servers": values, "written_at": written_at}
    WorkerHealth.objects.update_or_create(worker=worker, defaults=defaults)

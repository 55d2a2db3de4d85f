"""Calls and their sums, counters of limits, running calls, and sightings of keys."""

from keyportal.usage.models.calls import (
    LATENCY_BOUNDS_MS,
    LATENCY_COLUMNS,
    Call,
    CallQuerySet,
    Flush,
    Usage,
    UsageDay,
    UsageHour,
    UsageMinute,
    UsageQuerySet,
)
from keyportal.usage.models.counters import (
    LEASE_SECONDS,
    START_POSTGRESQL,
    START_SQLITE,
    Kind,
    Lease,
    Window,
    key_subject,
    team_subject,
    window_end,
    window_start,
)
from keyportal.usage.models.responses import MAX_RESPONSE_ID, StoredResponse
from keyportal.usage.models.running import EndRequest, RunningCalls
from keyportal.usage.models.sightings import INTERVAL_SECONDS, Alarm, NetworkUse, Sighting

__all__ = [
    "INTERVAL_SECONDS",
    "LATENCY_BOUNDS_MS",
    "LATENCY_COLUMNS",
    "LEASE_SECONDS",
    "MAX_RESPONSE_ID",
    "START_POSTGRESQL",
    "START_SQLITE",
    "Alarm",
    "Call",
    "CallQuerySet",
    "EndRequest",
    "Flush",
    "Kind",
    "Lease",
    "NetworkUse",
    "RunningCalls",
    "Sighting",
    "StoredResponse",
    "Usage",
    "UsageDay",
    "UsageHour",
    "UsageMinute",
    "UsageQuerySet",
    "Window",
    "key_subject",
    "team_subject",
    "window_end",
    "window_start",
]

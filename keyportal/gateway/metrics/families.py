"""The metrics by name, and their values as they are counted, added up and passed on."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Literal, NamedTuple

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
SHORT_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)

Labels = tuple[str, ...]
Values = list[float]
"""One number. Of a histogram: the count in each bucket, that above all bounds, and the sum."""
Samples = Mapping[Labels, Values]
Snapshot = dict[str, list[tuple[Labels, Values]]]
"""The samples of each family by its name."""


class Family(NamedTuple):
    """A metric, as Prometheus sees it."""

    name: str
    """Without the ending `_total` of a counter."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()


class Histogram:
    """Counts values in buckets. `bisect` costs a tenth of what a mapped file would."""

    __slots__ = ("_bounds", "values")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.values: Values = [0.0] * (len(bounds) + 2)

    def observe(self, value: float) -> None:
        values = self.values
        values[bisect_left(self._bounds, value)] += 1
        values[-1] += value


REQUESTS = Family(
    "keyportal_requests",
    "counter",
    "Requests to /v1/ and /auth/verify that are over, and those that could not be read.",
    ("endpoint", "model", "team", "status"),
)
DURATION = Family(
    "keyportal_request_duration_seconds",
    "histogram",
    "From the arrival of a request to the end of its response, of those that were served.",
    ("endpoint", "model", "team"),
    SECONDS,
)
FIRST_BYTE = Family(
    "keyportal_time_to_first_byte_seconds",
    "histogram",
    "From the arrival of a request to the first byte of the answer.",
    ("endpoint", "model", "team"),
    SECONDS,
)
TOKENS = Family(
    "keyportal_tokens", "counter", "Tokens used, by kind.", ("endpoint", "model", "team", "kind")
)
REFUSALS = Family(
    "keyportal_refusals",
    "counter",
    "Error responses of the gateway's own, by the code that the caller got.",
    ("reason",),
)
PAGE_DURATION = Family(
    "keyportal_page_duration_seconds",
    "histogram",
    "From the arrival of a request beside the gateway to the end of its response.",
    ("area", "status"),
    SECONDS,
)
CALLS = Family("keyportal_calls_in_flight", "gauge", "Admitted requests that are not over.")
WAITING = Family("keyportal_admission_waiting", "gauge", "Requests that wait for their verdict.")
BATCH_SIZE = Family(
    "keyportal_admission_batch_size",
    "histogram",
    "Requests that were judged with one query.",
    bounds=SIZES,
)
ADMISSION_WAIT = Family(
    "keyportal_admission_wait_seconds",
    "histogram",
    "How long the first request of each batch waited for its verdict.",
    bounds=SHORT_SECONDS,
)
ADMISSION_DATABASE = Family(
    "keyportal_admission_database_seconds",
    "histogram",
    "How long the database took for each batch of verdicts and counters.",
    bounds=SHORT_SECONDS,
)
USAGE_WRITE = Family(
    "keyportal_usage_write_seconds",
    "histogram",
    "How long each write of usage, alarms and running calls took.",
    bounds=SHORT_SECONDS,
)
USAGE_WRITE_FAILURES = Family(
    "keyportal_usage_write_failures", "counter", "Writes of usage that failed and are tried again."
)
UPSTREAM_FAILURES = Family(
    "keyportal_upstream_failures",
    "counter",
    "Failures of a model server: a status, or the kind of failure.",
    ("upstream", "reason"),
)
CIRCUIT_OPEN = Family(
    "keyportal_upstream_circuit_open",
    "gauge",
    "Workers that send no calls to this model server because it fails.",
    ("upstream",),
)
UPSTREAM_CALLS = Family(
    "keyportal_upstream_calls_in_flight", "gauge", "Calls at a model server.", ("upstream",)
)
POOL_CONNECTIONS = Family(
    "keyportal_database_pool_connections",
    "gauge",
    "Connections of the pool for pages (PostgreSQL).",
    ("state",),
)
POOL_WAIT = Family(
    "keyportal_database_pool_wait_seconds",
    "counter",
    "How long pages waited for a connection of the pool.",
)
POOL_WAITS = Family(
    "keyportal_database_pool_waits", "counter", "Pages that had to wait for a connection."
)
POOL_FAILURES = Family(
    "keyportal_database_pool_failures", "counter", "Pages that got no connection in time."
)
FAMILIES = (
    REQUESTS,
    DURATION,
    FIRST_BYTE,
    TOKENS,
    REFUSALS,
    PAGE_DURATION,
    CALLS,
    WAITING,
    BATCH_SIZE,
    ADMISSION_WAIT,
    ADMISSION_DATABASE,
    USAGE_WRITE,
    USAGE_WRITE_FAILURES,
    UPSTREAM_FAILURES,
    CIRCUIT_OPEN,
    UPSTREAM_CALLS,
    POOL_CONNECTIONS,
    POOL_WAIT,
    POOL_WAITS,
    POOL_FAILURES,
)
GAUGES = frozenset(family.name for family in FAMILIES if family.kind == "gauge")


class Totals:
    """Sums of several workers."""

    def __init__(self) -> None:
        self._values: dict[str, dict[Labels, Values]] = {}

    def add(self, snapshot: Snapshot, *, is_over: bool = False) -> None:
        """Add a worker's values. Those of a worker that `is_over` have no gauges."""
        for name, samples in snapshot.items():
            if is_over and name in GAUGES:
                continue
            family = self._values.setdefault(name, {})
            for labels, values in samples:
                present = family.get(labels)
                family[labels] = [*map(float.__add__, present, values)] if present else values

    def snapshot(self) -> Snapshot:
        return {name: [*samples.items()] for name, samples in self._values.items()}

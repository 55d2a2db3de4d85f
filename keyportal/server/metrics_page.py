"""`/metrics` for Prometheus, on a port of its own: what all workers of this process count.

One worker listens on the port; when it ends, another one takes over within a second. So a new
master after a re-exec also waits until the old one is gone.
"""

import threading
import time
from collections.abc import Iterable, Iterator

from django.conf import settings
from django.db import DatabaseError, connections
from django.db.models import Count, Q
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import keyportal
from keyportal.database.session import shut_down
from keyportal.gateway.metrics.families import FAMILIES, Family, Labels, Values
from keyportal.gateway.metrics.files import MetricsFolder
from keyportal.notifications.models import QueuedMail

ALIAS = "admission"  # Its statements time out.
DATABASE_SECONDS = 2.0
RETRY_SECONDS = 1.0


def serve(folder: MetricsFolder) -> None:
    """Runs in a thread of its own, as long as the worker."""
    registry = CollectorRegistry()
    registry.register(KeyportalCollector(folder))
    while True:
        try:
            _, thread = start_http_server(settings.METRICS_PORT, settings.METRICS_HOST, registry)
        except OSError:
            time.sleep(RETRY_SECONDS)  # Another worker has the port.
        else:
            thread.join()


class KeyportalCollector(Collector):
    """Reads everything anew for each scrape."""

    def __init__(self, folder: MetricsFolder) -> None:
        self._folder = folder

    def describe(self) -> Iterable[Metric]:
        """Nothing: without this method, the registry would collect everything to find names."""
        return []

    def collect(self) -> Iterator[Metric]:
        snapshot, workers = self._folder.read()
        for family in FAMILIES:
            yield _metric(family, snapshot.get(family.name, []))
        yield GaugeMetricFamily("keyportal_workers", "Running worker processes.", workers)
        version = GaugeMetricFamily("keyportal_build_info", "The version.", labels=["version"])
        version.add_metric([keyportal.__version__], 1)
        yield version
        yield from _database_metrics()


def _metric(family: Family, samples: Iterable[tuple[Labels, Values]]) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, (*counts, total) in samples:
            histogram.add_metric(labels, _cumulative(family.bounds, counts), total)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, values in samples:
        metric.add_metric(labels, values[0])
    return metric


def _cumulative(bounds: Iterable[float], counts: Iterable[float]) -> list[tuple[str, float]]:
    """Prometheus' buckets have everything up to their bound; ours only what is above the last."""
    buckets, total = [], 0.0
    for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


def _database_metrics() -> Iterator[Metric]:
    """Whether the database answers, and what waits in it."""
    outbox = _outbox()
    yield GaugeMetricFamily("keyportal_database_up", "Whether it answers.", outbox is not None)
    if outbox is not None:
        mails = GaugeMetricFamily(
            "keyportal_mail_outbox",
            "Mails that wait. Those that are retried have failed before.",
            labels=["state"],
        )
        for state, count in outbox.items():
            mails.add_metric([state], count)
        yield mails


def _outbox() -> dict[str, int] | None:
    """The mails that wait, by state; None if the database gives no answer."""
    connection = connections[ALIAS]
    timer = threading.Timer(DATABASE_SECONDS, lambda: shut_down(connection.connection))
    try:
        connection.ensure_connection()
        timer.start()  # A session can be silent for ever.
        return QueuedMail.objects.using(ALIAS).aggregate(
            new=Count("pk", filter=Q(tries=0)), retried=Count("pk", filter=Q(tries__gt=0))
        )
    except DatabaseError:
        return None
    finally:
        timer.cancel()
        connection.close()

"""A worker writes what it has met of the model servers when that changes, and once a minute."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from keyportal.catalog import circuit_breaker
from keyportal.catalog.circuit_breaker import CircuitBreaker
from keyportal.catalog.servers.health import Health, WorkerHealth
from keyportal.gateway.metering import health_reporter
from keyportal.gateway.metering.health_reporter import HealthReporter
from keyportal.gateway.metering.writer import Writer

pytestmark = pytest.mark.django_db


class CountingWriter:
    """Writes in the thread of the test."""

    writes = 0
    is_down = False

    async def run(self, function: Callable[[], Any]) -> Any:
        if self.is_down:
            return None
        self.writes += 1
        return await sync_to_async(function)()


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> CountingWriter:
    monkeypatch.setattr(circuit_breaker, "_breakers", {})
    monkeypatch.setattr(health_reporter, "ALIAS", "default")  # In the transaction of the test.
    return CountingWriter()


@pytest.fixture
def look(writer: CountingWriter) -> Callable[[], int]:
    """Let the worker look once; returns how often it has written."""
    reporter = HealthReporter("one", cast("Writer", writer))

    def look() -> int:
        async_to_sync(reporter.report)()
        return writer.writes

    return look


def called(fingerprint: str) -> CircuitBreaker:
    breaker = circuit_breaker.breaker_for(fingerprint)
    breaker.name = "gpu-7"
    return breaker


def test_nothing_is_written_while_nothing_changes(look: Callable[[], int]) -> None:
    assert look() == look() == 1
    called("a").record_success()
    assert look() == 2
    for _ in range(3):
        called("a").record_success()
        called("a").begin_call()
    assert look() == 2
    called("a").record_failure("502")
    assert look() == 3
    called("a").record_failure("502")
    assert look() == 3
    health = Health.read().of_server("a")
    assert (str(health), bool(health.since)) == ("Fails (answered 502)", True)
    called("a").record_success()
    assert look() == 4
    assert str(Health.read().of_server("a")) == "Answers"
    assert WorkerHealth.objects.count() == 1


@pytest.mark.any_database
def test_row_shows_each_minute_that_the_worker_runs(
    look: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look() == 1
    monkeypatch.setattr(health_reporter, "BEAT_SECONDS", 0.0)
    assert look() == 2


@pytest.mark.any_database
def test_what_could_not_be_written_is_written_later(
    look: Callable[[], int], writer: CountingWriter
) -> None:
    writer.is_down = True
    called("a").record_failure("502")
    assert look() == 0
    writer.is_down = False
    assert look() == 1


@pytest.mark.any_database
def test_worker_that_stops_deletes_its_row(look: Callable[[], int], writer: CountingWriter) -> None:
    look()
    async_to_sync(HealthReporter("one", cast("Writer", writer)).end)()
    assert not WorkerHealth.objects.exists()

"""Old rows are deleted, a slice at a time, and no others."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connections, transaction
from django.db.models import QuerySet
from django.utils import timezone
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.gateway.metering import retention as module
from keyportal.gateway.metering.retention import RetentionJob
from keyportal.gateway.metering.writer import ALIAS, Writer
from keyportal.notifications.models import Reminder
from keyportal.usage.models import (
    Call,
    EndRequest,
    Flush,
    Kind,
    Lease,
    StoredResponse,
    UsageDay,
    UsageHour,
    UsageMinute,
    Window,
)

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "meter"])


@pytest.fixture
def writer(db: None) -> Iterator[Writer]:
    writer = Writer()
    yield writer
    writer.close()
    writer._thread.shutdown()  # Waits: an open connection would keep the database.


def clean(writer: Writer) -> None:
    asyncio.run(RetentionJob(writer).clean())


def ago(**units: float) -> Any:
    return timezone.now() - timedelta(**units)


def call(**more: Any) -> Call:
    return Call(
        request_id="r", team_slug="t", public_id="k", owner_id=7, status=200, duration_ms=1, **more
    )


def test_only_old_rows_are_deleted(writer: Writer) -> None:
    Call.objects.bulk_create([call(started_at=ago(days=days)) for days in (6.9, 7.1)])
    for table, kept, gone in (
        (UsageMinute, {"hours": 47}, {"hours": 49}),
        (UsageHour, {"days": 91}, {"days": 101}),
        (UsageDay, {"days": 90}, {"days": 4000}),
    ):
        for when in (kept, gone):
            table.objects.create(start=ago(**when), team_slug="t", public_id="k", owner_id=7)
    for kind, kept, gone in (
        (Kind.MINUTE, {"minutes": 1}, {"minutes": 11}),
        (Kind.DAY, {"days": 1}, {"days": 4}),
        (Kind.MONTH, {"days": 31}, {"days": 71}),
        (Kind.EVER, {"days": 1}, {"days": 20_000}),
    ):
        for when in (kept, gone):
            Window.objects.create(subject="key:k", kind=kind, start=ago(**when))
    for worker, when in (("lives", {"minutes": 1}), ("gone", {"hours": 2})):
        Lease.objects.create(subject="key:k", worker=worker, calls=1, renewed_at=ago(**when))
    for name, when in (("new", {"hours": 1}), ("old", {"hours": 25})):
        Flush.objects.create(flush_id=name)
        Flush.objects.filter(flush_id=name).update(committed_at=ago(**when))
        EndRequest.objects.create(team_slug="t", call_id=name)
    EndRequest.objects.filter(call_id="old").update(requested_at=ago(minutes=6))
    for days in (59, 61):
        Reminder.objects.create(public_id="k", days=days, expires_at=ago())
        Reminder.objects.filter(days=days).update(created_at=ago(days=days))
    clean(writer)
    assert Reminder.objects.get().days == 59
    assert Call.objects.count() == UsageMinute.objects.count() == UsageHour.objects.count() == 1
    assert UsageDay.objects.count() == 2  # Costs are needed years later.
    assert Window.objects.exclude(kind=Kind.EVER).count() == 3
    assert Window.objects.filter(kind=Kind.EVER).count() == 2
    assert Lease.objects.get().worker == "lives"
    assert Flush.objects.get().flush_id == EndRequest.objects.get().call_id == "new"


def test_retention_of_calls_is_a_setting(writer: Writer, settings: Settings) -> None:
    settings.CALL_RETENTION_DAYS = 2
    Call.objects.bulk_create([call(started_at=ago(days=days)) for days in (1, 3)])
    clean(writer)
    assert Call.objects.count() == 1


@pytest.mark.parametrize(
    ("days", "kept"), [(400, {1, 9, 399}), (10, {1, 9}), (0, {1, 9, 399, 401, 9000})]
)
def test_retention_of_the_audit_is_a_setting(
    writer: Writer, settings: Settings, days: int, kept: set[int]
) -> None:
    settings.AUDIT_RETENTION_DAYS = days
    for age in (1, 9, 399, 401, 9000):
        event = AuditEvent.objects.record(Action.SIGNED_IN, target=str(age))
        # The model's own methods refuse a change.
        QuerySet(AuditEvent).filter(pk=event.pk).update(created_at=ago(days=age))
    clean(writer)
    assert {int(event.target) for event in AuditEvent.objects.all()} == kept


def test_many_rows_are_deleted_in_slices(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 100)
    Call.objects.bulk_create([call(started_at=ago(days=8)) for _ in range(250)])
    slices: list[int] = []
    delete = module.delete_old_rows

    def count(rows: module.Retention) -> int:
        deleted = delete(rows)
        if rows.table == Call._meta.db_table:
            slices.append(deleted)
        return deleted

    monkeypatch.setattr(module, "delete_old_rows", count)
    clean(writer)
    assert slices == [100, 100, 50]


def test_slice_is_bounded_with_any_query_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plan that repeats the SELECT for each row must not lock other rows each time."""
    monkeypatch.setattr(module, "SLICE", 100)
    Call.objects.bulk_create([call(started_at=ago(days=8)) for _ in range(250)])
    (rows,) = (one for one in module.retentions() if one.table == Call._meta.db_table)
    with transaction.atomic(using=ALIAS), connections[ALIAS].cursor() as cursor:
        if settings.IS_POSTGRESQL:
            cursor.execute("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
        assert [module.delete_old_rows(rows) for _ in range(3)] == [100, 100, 50]


def lease(worker: str, when: Any) -> Lease:
    return Lease(subject="key:k", worker=worker, calls=1, renewed_at=when)


def window(subject: str, when: Any) -> Window:
    return Window(subject=subject, kind=Kind.MINUTE, start=when)


def reminder(public_id: str, when: Any) -> Reminder:
    return Reminder(public_id=public_id, days=1, expires_at=when)


@pytest.mark.parametrize(
    ("table", "make", "column"),
    [
        (Call, lambda _, when: call(started_at=when), "started_at"),
        (Lease, lease, "renewed_at"),
        (Window, window, "start"),
        (Reminder, reminder, "created_at"),
    ],
    ids=["calls", "leases", "counters", "reminders"],
)
def test_rows_that_are_updated_in_place_hide_no_old_ones(
    writer: Writer,
    table: Any,
    make: Callable[[str, Any], Any],
    column: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More than a slice of recent rows comes first by id."""
    monkeypatch.setattr(module, "SLICE", 20)
    living = table.objects.bulk_create(make(f"{n}", ago(days=100)) for n in range(20))
    table.objects.bulk_create(make(f"{n}", ago(days=99)) for n in range(20, 50))
    table.objects.update(**{column: ago(days=99)})
    table.objects.filter(pk__in=[row.pk for row in living]).update(**{column: ago()})
    clean(writer)
    assert set(table.objects.values_list("pk", flat=True)) == {row.pk for row in living}


def test_database_outage_does_not_stop_the_job(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    tried: list[str] = []

    async def wait_for_the_second_round() -> None:
        loop, is_again = asyncio.get_running_loop(), asyncio.Event()

        def fail(rows: module.Retention) -> int:
            if rows.table in tried:
                loop.call_soon_threadsafe(is_again.set)
            tried.append(rows.table)
            raise OperationalError("The database is away.")

        monkeypatch.setattr(module, "delete_old_rows", fail)
        running = asyncio.create_task(RetentionJob(writer).clean_forever())
        await asyncio.wait_for(is_again.wait(), 60)
        running.cancel()

    asyncio.run(wait_for_the_second_round())


def test_ids_of_stored_answers_are_kept_for_their_time(writer: Writer, settings: Settings) -> None:
    settings.RESPONSE_RETENTION_DAYS = 30
    for days in (29.9, 30.1):
        StoredResponse.objects.create(
            team_slug="t",
            response_id=f"r{days}",
            model="m",
            upstream_id=1,
            created_at=ago(days=days),
        )
    clean(writer)
    assert StoredResponse.objects.get().response_id == "r29.9"

"""A host whose clock is two hours ahead: windows, leases and running calls are the database's."""

from datetime import timedelta

import pytest
from django.utils import timezone

from keyportal.database.clock import database_now
from keyportal.gateway.metering.retention import delete_old_rows, retentions
from keyportal.gateway.metering.running_calls import write
from keyportal.scheduler.models import ScheduledJob
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team
from keyportal.usage.limit_status import limit_uses
from keyportal.usage.models import Kind, Lease, RunningCalls, Window, key_subject, window_start
from tests.support.clock import ensure_time_left

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "meter"])
SUBJECT = key_subject("AAAAAAAA")


@pytest.fixture
def clock_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    right = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: right() + timedelta(hours=2))


def test_nothing_current_is_cleaned(clock_ahead: None, team: Team) -> None:
    ensure_time_left(10)
    now = database_now()
    Window.objects.create(subject=SUBJECT, kind=Kind.MINUTE, start=window_start(Kind.MINUTE, now))
    Lease.objects.create(subject=SUBJECT, worker="one", calls=1, renewed_at=now)
    write("one", {team.slug: []}, [])
    assert [delete_old_rows(retention) for retention in retentions()] == [0] * len(retentions())


def test_running_calls_of_other_hosts_are_shown(clock_ahead: None, team: Team) -> None:
    write("one", {team.slug: []}, [])
    assert RunningCalls.objects.for_team(team).count() == 1
    assert abs(RunningCalls.objects.get().written_at - database_now()) < timedelta(minutes=1)


def test_the_current_windows_are_shown(clock_ahead: None) -> None:
    ensure_time_left(10)
    now = database_now()
    start = window_start(Kind.MINUTE, now)
    Window.objects.create(subject=SUBJECT, kind=Kind.MINUTE, start=start, requests=7)
    Lease.objects.create(subject=SUBJECT, worker="one", calls=3, renewed_at=now)
    uses = {use.name: use.used for use in limit_uses(SUBJECT, Limits())}
    assert uses["requests_per_minute"] == 7
    assert uses["parallel_requests"] == 3


def test_no_lease_on_a_job_is_taken_from_a_worker_that_is_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ScheduledJob.objects.acquire("reminders", "one")
    right = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: right() + timedelta(hours=2))
    assert not ScheduledJob.objects.acquire("reminders", "two")
    assert ScheduledJob.objects.renew("reminders", "one")

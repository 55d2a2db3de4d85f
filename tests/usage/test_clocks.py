"""A host whose clock is two hours ahead: windows, leases and running calls are the database's."""

import time
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from keyportal.database.clock import database_now
from keyportal.gateway.metering import usage_sql
from keyportal.gateway.metering.anomalies import AnomalyDetector
from keyportal.gateway.metering.retention import delete_old_rows, retentions
from keyportal.gateway.metering.running_calls import write
from keyportal.gateway.metering.usage_sql import SUM_COLUMNS, CallRecord, Flush, Sums
from keyportal.gateway.stored_responses import Row, _upsert
from keyportal.scheduler.models import ScheduledJob
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team
from keyportal.usage.forms import UsageFilter
from keyportal.usage.impact import impact, requests_last_day
from keyportal.usage.limit_status import limit_uses
from keyportal.usage.models import (
    Alarm,
    Call,
    EndRequest,
    Kind,
    Lease,
    NetworkUse,
    RunningCalls,
    Sighting,
    StoredResponse,
    UsageHour,
    UsageMinute,
    Window,
    key_subject,
    window_start,
)
from keyportal.usage.models import Flush as WrittenFlush
from keyportal.usage.reports.periods import Step
from tests.support.clock import ensure_time_left

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "meter"])
SUBJECT = key_subject("AAAAAAAA")


@pytest.fixture
def clock_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seconds = timezone.now, time.time
    monkeypatch.setattr(timezone, "now", lambda: now() + timedelta(hours=2))
    monkeypatch.setattr(time, "time", lambda: seconds() + 7200)


def test_nothing_current_is_cleaned(clock_ahead: None, team: Team) -> None:
    ensure_time_left(10)
    now = database_now()
    Window.objects.create(subject=SUBJECT, kind=Kind.MINUTE, start=window_start(Kind.MINUTE, now))
    Lease.objects.create(subject=SUBJECT, worker="one", calls=1, renewed_at=now)
    write("one", {team.slug: []}, [])
    assert [delete_old_rows(retention) for retention in retentions()] == [0] * len(retentions())


def test_running_calls_of_other_hosts_are_shown(clock_ahead: None, team: Team) -> None:
    write("one", {team.slug: [{"id": "call_1", "seconds": 30}]}, [])
    (call,) = RunningCalls.objects.for_team(team).calls()
    assert abs(database_now() - call["since"] - timedelta(seconds=30)) < timedelta(minutes=1)
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


def is_current(moment: datetime | None, seconds: float = 90) -> bool:
    return moment is not None and abs(moment - database_now()) < timedelta(seconds=seconds)


def test_usage_is_written_with_the_time_of_the_database(clock_ahead: None, team: Team) -> None:
    """Or calls of this host would be sums of the future, and last longer than those of others."""
    owner = (team.slug, "AAAAAAAA", 1)
    now = time.time()
    record = CallRecord("req", now - 1, *owner, "/chat/completions", "m", 200)
    sums: Sums = {(int(now) // 60 * 60, *owner, "other"): [1] * len(SUM_COLUMNS)}
    flush = Flush("one", [record], sums, {}, {}, {}, {}, {(team.slug, "AAAAAAAA", "192.0.2.1")})
    assert usage_sql.write(flush) == {}
    assert usage_sql.write(flush) == {}  # It is written once.
    AnomalyDetector().detect(flush, {})
    assert is_current(Call.objects.get().started_at)
    assert all(is_current(row.start) for row in UsageMinute.objects.all())
    assert UsageMinute.objects.count() == 2
    assert is_current(WrittenFlush.objects.get().committed_at)
    assert is_current(NetworkUse.objects.get().first_used_at)
    assert is_current(Sighting.objects.get().start, 400)


def test_alarm_is_not_raised_again_too_early(clock_ahead: None) -> None:
    assert Alarm.objects.using("meter").raise_once("AAAAAAAA", "action")
    assert not Alarm.objects.using("meter").raise_once("AAAAAAAA", "action")
    Alarm.objects.update(raised_at=database_now() - timedelta(minutes=61))
    assert Alarm.objects.using("meter").raise_once("AAAAAAAA", "action")
    assert is_current(Alarm.objects.get().raised_at)


def test_request_to_end_a_call_and_stored_answer_have_the_time_of_the_database(
    clock_ahead: None, team: Team
) -> None:
    EndRequest.objects.get_or_create(team_slug=team.slug, call_id="one")
    _upsert([Row(team.slug, "resp_1", "m", 1)])
    assert is_current(EndRequest.objects.get().requested_at)
    assert is_current(StoredResponse.objects.get().created_at)


def test_usage_is_shown_up_to_the_time_of_the_database(clock_ahead: None) -> None:
    end = UsageFilter({"range": "24h"}).period().end
    assert abs(end - database_now()) < timedelta(minutes=70)


def test_last_day_of_a_key_ends_with_the_time_of_the_database(
    clock_ahead: None, team: Team
) -> None:
    """As the dialogs to delete keys and to remove members show it."""
    start = Step.HOUR.floor(database_now()) - timedelta(hours=22)
    UsageHour.objects.create(
        start=start, team_slug=team.slug, public_id="AAAAAAAA", owner_id=1, requests=7
    )
    assert impact(team, ["AAAAAAAA"]).requests == 7
    assert requests_last_day(team, ["AAAAAAAA"]) == {"AAAAAAAA": 7}

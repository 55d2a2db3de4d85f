"""The use of limits, read from the windows and leases that the gateway writes."""

from datetime import timedelta

import pytest
from django.utils import timezone

from keyportal.teams.limits import LABELS, UNLIMITED, Limits
from keyportal.usage.limit_status import limit_uses
from keyportal.usage.models import Kind, Lease, Window, window_end, window_start

SUBJECT = "key:AbCd1234"


@pytest.mark.django_db
def test_only_current_windows_of_the_subject_count() -> None:
    now = timezone.now()
    for kind in Kind:
        start = window_start(kind, now)
        for subject, at, used in (
            (SUBJECT, start, 10 * kind),
            (SUBJECT, start - timedelta(days=40), 7),
            ("key:other123", start, 5),
        ):
            Window.objects.create(
                subject=subject, kind=kind, start=at, requests=used, tokens=used * 100
            )
    uses = {use.name: use for use in limit_uses(SUBJECT, Limits(requests_per_day=20))}
    assert list(uses) == list(LABELS)
    assert [use.used for use in uses.values()] == [10, 1000, 20, 2000, 30, 3000, 0]
    day = uses["requests_per_day"]
    assert (day.limit, day.is_full, day.resets_at) == (20, True, window_end(Kind.DAY, now))
    assert not uses["tokens_per_day"].is_full


@pytest.mark.django_db
def test_calls_of_stopped_workers_do_not_count() -> None:
    now = timezone.now()
    for name, age, calls in (("alive", 1, 3), ("also", 9, 2), ("gone", 11, 9)):
        renewed_at = now - timedelta(seconds=age)
        Lease.objects.create(subject=SUBJECT, worker=name, calls=calls, renewed_at=renewed_at)
    running = limit_uses(SUBJECT, UNLIMITED)[-1]
    assert (running.name, running.used, running.resets_at) == ("parallel_requests", 5, None)

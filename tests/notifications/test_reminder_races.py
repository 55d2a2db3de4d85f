"""Several that send reminders at the same time: each mail is queued once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier

import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.models import ApiKey
from keyportal.notifications.models import QueuedMail, Reminder
from keyportal.notifications.reminders import send_reminders
from keyportal.teams.models import User

pytestmark = pytest.mark.django_db(transaction=True)
KEYS = 3
CROWD = 5
BACKEND = "keyportal.notifications.backend.OutboxBackend"
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def now(bob: User, issue: Issue) -> datetime:
    """When three of Bob's keys have five days left."""
    now = timezone.now()
    for number in range(KEYS):
        issue(bob, f"key {number}", expires_at=now + timedelta(days=5))
    ApiKey.objects.update(created_at=now - timedelta(days=30))
    return now


def test_concurrent_reminders_are_queued_once(now: datetime, settings: Settings) -> None:
    settings.EMAIL_BACKEND = BACKEND
    gate = Barrier(CROWD)

    def run(_: int) -> int:
        gate.wait(timeout=120)
        try:
            return send_reminders(now)
        finally:
            connection.close()

    with ThreadPoolExecutor(CROWD) as crowd:
        counts = list(crowd.map(run, range(CROWD)))
    assert sum(counts) == KEYS
    subjects = QueuedMail.objects.values_list("subject", flat=True)
    assert len(subjects) == len({*subjects}) == Reminder.objects.count() == KEYS
    assert AuditEvent.objects.filter(action=Action.KEY_REMINDED).count() == KEYS

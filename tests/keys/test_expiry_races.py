"""Several that remind at once, on one host or on several: each mail goes out once."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from keyportal.activity.models import Action, AuditEvent
from keyportal.keys.expiry import Told, remind
from keyportal.keys.models import ApiKey, Reminder
from keyportal.teams.models import User
from tests.post import Sink
from tests.serving import database_url

pytestmark = pytest.mark.django_db(transaction=True)
KEYS = 5
CROWD = 8
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def now(bob: User, issue: Issue) -> datetime:
    """When five of Bob's keys have five days left."""
    now = timezone.now()
    for number in range(KEYS):
        issue(bob, f"key {number}", expires_at=now + timedelta(days=5))
    ApiKey.objects.update(created_at=now - timedelta(days=30))
    return now


def require_one_of_each(sink: Sink) -> None:
    told = {str(letter["Subject"]) for letter in sink.received}
    assert len(sink.received) == len(told) == KEYS
    assert Reminder.objects.filter(told_at__isnull=False).count() == KEYS
    assert AuditEvent.objects.filter(action=Action.KEY_REMINDED).count() == KEYS


def test_a_crowd_sends_each_once(sink: Sink, now: datetime) -> None:
    gate = Barrier(CROWD)

    def run(_: int) -> Told:
        gate.wait(timeout=30)
        try:
            return remind(now)
        finally:
            connection.close()

    with ThreadPoolExecutor(CROWD) as crowd:
        told = list(crowd.map(run, range(CROWD)))
    assert sum(one.sent for one in told) == KEYS
    assert sum(one.failed for one in told) == 0
    require_one_of_each(sink)


def test_two_commands_at_once_send_each_once(sink: Sink, now: datetime) -> None:
    environment = os.environ | {
        "DATABASE_URL": database_url(),
        "EMAIL_URL": sink.url,
        "DJANGO_SETTINGS_MODULE": "keyportal.settings",
    }
    commands = [
        subprocess.Popen(
            [sys.executable, "manage.py", "remind_of_expiry"],
            cwd=settings.BASE_DIR,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for command in commands:
        _, errors = command.communicate(timeout=60)
        assert (command.returncode, errors) == (0, "")
    require_one_of_each(sink)

"""Processes that send reminders at the same time: each mail is queued once."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.models import ApiKey
from keyportal.notifications.models import QueuedMail, Reminder
from keyportal.notifications.reminders import send_reminders
from keyportal.teams.models import User
from tests.support.server import database_url

pytestmark = pytest.mark.django_db(transaction=True)
KEYS = 5
CROWD = 8
BACKEND = "keyportal.notifications.backend.OutboxBackend"
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def now(bob: User, issue: Issue) -> datetime:
    """When five of Bob's keys have five days left."""
    now = timezone.now()
    for number in range(KEYS):
        issue(bob, f"key {number}", expires_at=now + timedelta(days=5))
    ApiKey.objects.update(created_at=now - timedelta(days=30))
    return now


def require_one_of_each() -> None:
    subjects = QueuedMail.objects.values_list("subject", flat=True)
    assert len(subjects) == len({*subjects}) == Reminder.objects.count() == KEYS
    assert AuditEvent.objects.filter(action=Action.KEY_REMINDED).count() == KEYS


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
    require_one_of_each()


def test_two_commands_at_once_queue_each_once(now: datetime) -> None:
    environment = os.environ | {
        "DATABASE_URL": database_url(),
        "DJANGO_SETTINGS_MODULE": "keyportal.settings",
    }
    commands = [
        subprocess.Popen(
            [sys.executable, "manage.py", "remind_of_expiry"],
            cwd=django_settings.BASE_DIR,
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
    require_one_of_each()

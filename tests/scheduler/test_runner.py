"""Scheduled jobs run in one worker of all, and delay neither calls nor the stop."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Barrier

import pytest
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from keyportal.keys.models import ApiKey
from keyportal.notifications.models import QueuedMail, Reminder
from keyportal.notifications.reminders import send_reminders
from keyportal.scheduler import models, runner
from keyportal.scheduler.models import LEASE, PERIOD, ScheduledJob
from keyportal.scheduler.runner import Scheduler
from keyportal.teams.models import User
from tests.support.mail_server import MailServer
from tests.support.server import Server, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.long]
Issue = Callable[..., tuple[ApiKey, str]]
OwnServer = Callable[..., Server]
KEYS = 3
EMAIL_TIMEOUT = 30
"""The seconds after which a server gives up a silent mail server."""
REMINDERS = "reminders"


@pytest.fixture
def keys(bob: User, issue: Issue) -> list[str]:
    """Keys that expire in five days, without a reminder so far."""
    expires_at = timezone.now() + timedelta(days=5)
    key_strings = [issue(bob, f"key {number}", expires_at=expires_at)[1] for number in range(KEYS)]
    ApiKey.objects.update(created_at=timezone.now() - timedelta(days=30))
    return key_strings


@contextmanager
def silent_mail_server() -> Iterator[tuple[int, threading.Event]]:
    """A server that accepts connections and sends nothing.

    Yields its port, and an event that is set by the first connection.
    """
    is_connected = threading.Event()
    sockets: list[socket.socket] = []

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                sockets.append(listener.accept()[0])
            except OSError:
                return
            is_connected.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=[listener], daemon=True).start()
        try:
            yield listener.getsockname()[1], is_connected
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for accepted in sockets:
                accepted.close()


@pytest.mark.gateway
def test_of_four_workers_one_sends_each_mail_once(
    own_server: OwnServer, keys: list[str], mail_server: MailServer
) -> None:
    server = own_server(workers=4, KEYPORTAL_SCHEDULER="on", EMAIL_URL=mail_server.url)
    wait_until(lambda: len(mail_server.received) >= KEYS)
    wait_until(lambda: ScheduledJob.objects.get(name=REMINDERS).worker == "")
    wait_until(lambda: len(server.workers()) == 4)
    time.sleep(0.5)  # By now the other workers have tried too.
    assert sorted(str(message["Subject"]) for message in mail_server.received) == [
        f'[Keyportal] API key "key {number}" expires in 5 days' for number in range(KEYS)
    ]
    due_in = ScheduledJob.objects.get(name=REMINDERS).due_at - timezone.now()
    assert PERIOD - timedelta(minutes=1) < due_in <= PERIOD


@pytest.mark.any_database
@pytest.mark.gateway
def test_silent_mail_server_delays_neither_calls_nor_the_stop(
    own_server: OwnServer, keys: list[str]
) -> None:
    with silent_mail_server() as (port, is_connected):
        url = f"smtp://127.0.0.1:{port}"
        server = own_server(KEYPORTAL_SCHEDULER="on", EMAIL_URL=url)
        assert is_connected.wait(60)
        for path, key in (("/v1/models", keys[0]), ("/accounts/login/", None)):
            began = time.monotonic()
            assert server.request("GET", path, key=key).status == 200
            assert time.monotonic() - began < EMAIL_TIMEOUT - 5
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < EMAIL_TIMEOUT - 5
    assert QueuedMail.objects.count() == KEYS
    assert "Traceback" not in server.log


@pytest.mark.any_database
@pytest.mark.gateway
def test_scheduler_that_is_off_sends_mail_and_runs_no_job(
    own_server: OwnServer, keys: list[str], mail_server: MailServer
) -> None:
    server = own_server(KEYPORTAL_SCHEDULER="off", EMAIL_URL=mail_server.url)
    queue_mail()
    mail_server.wait_for(1)
    time.sleep(1)
    assert server.stop() == 0
    assert len(mail_server.received) == 1
    assert not ScheduledJob.objects.exists()


def test_mail_is_sent_when_it_is_queued(
    keys: list[str],
    mail_server: MailServer,
    client: Client,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not at the next check, which would be in an hour."""
    settings.EMAIL_BACKEND = "keyportal.notifications.backend.OutboxBackend"
    settings.OUTBOX_EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    monkeypatch.setattr(runner, "MAIL_SECONDS", 3600)
    scheduler = Scheduler()
    scheduler.start()
    for number, key in enumerate(keys, 1):
        assert client.post("/leaks/report", key, content_type="text/plain").status_code == 202
        mail_server.wait_for(number)
    asyncio.run(scheduler.stop())


@pytest.mark.gateway
def test_mail_of_a_killed_server_is_sent_by_the_next_server(
    own_server: OwnServer, keys: list[str], mail_server: MailServer
) -> None:
    with silent_mail_server() as (port, is_connected):
        server = own_server(EMAIL_URL=f"smtp://127.0.0.1:{port}")
        for key in keys:
            assert server.request("POST", "/leaks/report", body=key.encode()).status == 202
        assert is_connected.wait(60)
        server.kill()
    assert QueuedMail.objects.count() == KEYS
    # One was being sent; its claim ends in some minutes.
    assert QueuedMail.objects.filter(due_at__gt=Now()).update(due_at=Now()) <= 1
    own_server(EMAIL_URL=mail_server.url)
    wait_until(lambda: not QueuedMail.objects.exists())
    assert mail_server.recipients == ["bob@example.com"] * KEYS


def queue_mail() -> None:
    """Queue a mail like another process does, which can't wake the scheduler."""
    QueuedMail.objects.create(
        to="bob@example.com", from_email="a@b.c", subject="A", body="b", headers={}
    )


def test_one_of_many_workers_acquires_the_lease(db: None) -> None:
    barrier = Barrier(8)

    def acquire(number: int) -> bool:
        barrier.wait(timeout=120)
        try:
            return ScheduledJob.objects.acquire(REMINDERS, f"worker {number}")
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(acquire, range(8))) == 1


def test_released_job_is_due_again_later(db: None) -> None:
    assert ScheduledJob.objects.acquire(REMINDERS, "one")
    assert not ScheduledJob.objects.acquire(REMINDERS, "two")
    ScheduledJob.objects.release(REMINDERS, "one")
    assert not ScheduledJob.objects.acquire(REMINDERS, "two")
    ScheduledJob.objects.update(due_at=timezone.now() - timedelta(seconds=1))
    assert ScheduledJob.objects.acquire(REMINDERS, "two")


def test_worker_with_expired_lease_is_replaced_and_releases_nothing(db: None) -> None:
    assert ScheduledJob.objects.acquire(REMINDERS, "slow")
    assert ScheduledJob.objects.renew(REMINDERS, "slow")
    ScheduledJob.objects.update(due_at=timezone.now() - timedelta(seconds=1))
    assert ScheduledJob.objects.acquire(REMINDERS, "quick")
    assert not ScheduledJob.objects.renew(REMINDERS, "slow")
    ScheduledJob.objects.release(REMINDERS, "slow")
    job = ScheduledJob.objects.get(name=REMINDERS)
    assert job.worker == "quick"
    assert job.due_at - timezone.now() <= LEASE


def test_scheduler_survives_a_database_outage(
    keys: list[str],
    mail_server: MailServer,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.SCHEDULER = True
    monkeypatch.setattr(runner, "PAUSE_SECONDS", 0.01)
    tries: list[int] = []

    def fail_twice(*, should_continue: Callable[[], bool]) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OperationalError("The database is away.")
        send_reminders(should_continue=should_continue)

    monkeypatch.setitem(runner.JOBS, REMINDERS, fail_twice)
    monkeypatch.setattr(models, "LEASE", timedelta())  # So the job is due again at once.
    scheduler = Scheduler()
    scheduler.start()
    wait_until(lambda: len(mail_server.received) == KEYS)
    asyncio.run(scheduler.stop())
    message = "The job 'reminders' fails and will be retried: OperationalError"
    assert caplog.text.count(message) == 1


@pytest.mark.any_database
def test_mail_server_that_is_down_is_logged_once(
    db: None,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.OUTBOX_EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    monkeypatch.setattr(runner, "MAIL_SECONDS", 0.01)
    for _ in range(3):
        queue_mail()
    scheduler = Scheduler()
    scheduler.start()
    wait_until(lambda: QueuedMail.objects.filter(tries=1).count() == 3)
    asyncio.run(scheduler.stop())
    message = "The job 'mail' fails and will be retried: MailServerDown: ConnectionRefusedError"
    assert caplog.text.count(message) == 1


def test_stop_ends_a_job_between_two_steps(
    keys: list[str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SCHEDULER = True
    scheduler = Scheduler()

    def remind_and_end(*, should_continue: Callable[[], bool]) -> None:
        def should_continue_once() -> bool:
            if Reminder.objects.exists():
                scheduler.end()
            return should_continue()

        send_reminders(should_continue=should_continue_once)

    monkeypatch.setitem(runner.JOBS, REMINDERS, remind_and_end)
    scheduler.start()
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "scheduler")
    thread.join(60)
    assert not thread.is_alive()
    assert Reminder.objects.count() == 1

"""What a server does by itself: once over all its workers, and in nobody's way."""

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
from django.utils import timezone
from pytest_django import Settings

from keyportal.keys.models import ApiKey
from keyportal.notifications.models import QueuedMail, Reminder
from keyportal.notifications.reminders import remind
from keyportal.scheduler import models as chores
from keyportal.scheduler import runner as module
from keyportal.scheduler.models import PERIOD, TURN, ScheduledJob
from keyportal.scheduler.runner import MAIL_SECONDS, Scheduler
from keyportal.teams.models import User
from tests.support.mail_server import Sink
from tests.support.server import Server, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Issue = Callable[..., tuple[ApiKey, str]]
OwnServer = Callable[..., Server]
KEYS = 3
REMINDERS = "reminders"


@pytest.fixture
def keys(bob: User, issue: Issue) -> list[str]:
    """Keys with five days left, of which nobody was told."""
    end = timezone.now() + timedelta(days=5)
    issued = [issue(bob, f"key {number}", expires_at=end)[1] for number in range(KEYS)]
    ApiKey.objects.update(created_at=timezone.now() - timedelta(days=30))
    return issued


@contextmanager
def silent_mail_server() -> Iterator[tuple[int, threading.Event]]:
    """Its port, and whether somebody has come: it takes connections and never says a word."""
    has_come, held = threading.Event(), []

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                held.append(listener.accept()[0])
            except OSError:
                return
            has_come.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=[listener], daemon=True).start()
        try:
            yield listener.getsockname()[1], has_come
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for one in held:
                one.close()


@pytest.mark.gateway
def test_of_four_workers_one_sends_each_mail_once(
    own_server: OwnServer, keys: list[str], sink: Sink
) -> None:
    server = own_server(workers=4, KEYPORTAL_SCHEDULER="on", EMAIL_URL=sink.url)
    wait_until(lambda: len(sink.received) >= KEYS)
    wait_until(lambda: ScheduledJob.objects.get(name=REMINDERS).worker == "")
    wait_until(lambda: len(server.workers()) == 4)
    time.sleep(0.5)  # The others have looked by now, too.
    assert sorted(str(letter["Subject"]) for letter in sink.received) == [
        f"[Keyportal] The API key key {number} expires in 5 days" for number in range(KEYS)
    ]
    due_in = ScheduledJob.objects.get(name=REMINDERS).due_at - timezone.now()
    assert PERIOD - timedelta(minutes=1) < due_in <= PERIOD


@pytest.mark.gateway
def test_a_mail_server_that_never_answers_holds_up_neither_calls_nor_the_stop(
    own_server: OwnServer, keys: list[str]
) -> None:
    with silent_mail_server() as (port, has_come):
        url = f"smtp://127.0.0.1:{port}"
        server = own_server(KEYPORTAL_SCHEDULER="on", EMAIL_URL=url)
        assert has_come.wait(30)
        for path, key in (("/v1/models", keys[0]), ("/accounts/login/", None)):
            began = time.monotonic()
            assert server.request("GET", path, key=key).status == 200
            assert time.monotonic() - began < 5
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
    assert QueuedMail.objects.count() == KEYS
    assert "Traceback" not in server.log


@pytest.mark.gateway
def test_turned_off_a_server_sends_mail_and_does_nothing_else_by_itself(
    own_server: OwnServer, keys: list[str], sink: Sink
) -> None:
    server = own_server(KEYPORTAL_SCHEDULER="off", EMAIL_URL=sink.url)
    queue_mail()
    sink.wait_for(1)
    time.sleep(1)
    assert server.stop() == 0
    assert len(sink.received) == 1
    assert not ScheduledJob.objects.exists()


@pytest.mark.gateway
def test_a_mail_is_sent_within_a_second_of_the_request_that_writes_it(
    own_server: OwnServer, keys: list[str], sink: Sink
) -> None:
    server = own_server(EMAIL_URL=sink.url)
    time.sleep(MAIL_SECONDS + 1)  # Its first look is over, and the next one some seconds away.
    waits = []
    for number, key in enumerate(keys, 1):
        assert server.request("POST", "/leaks/report", body=key.encode()).status == 202
        began = time.monotonic()
        sink.wait_for(number)
        waits.append(time.monotonic() - began)
    assert min(waits) < 1


@pytest.mark.gateway
def test_mail_that_a_killed_server_left_is_sent_by_the_next(
    own_server: OwnServer, keys: list[str], sink: Sink
) -> None:
    with silent_mail_server() as (port, has_come):
        server = own_server(EMAIL_URL=f"smtp://127.0.0.1:{port}")
        for key in keys:
            assert server.request("POST", "/leaks/report", body=key.encode()).status == 202
        assert has_come.wait(30)
        server.kill()
    assert QueuedMail.objects.count() == KEYS
    # One was being sent; its claim is over in some minutes.
    assert QueuedMail.objects.filter(due_at__gt=Now()).update(due_at=Now()) <= 1
    own_server(EMAIL_URL=sink.url)
    wait_until(lambda: not QueuedMail.objects.exists())
    assert sink.recipients == ["bob@example.com"] * KEYS


def queue_mail() -> None:
    """As another process does."""
    QueuedMail.objects.create(
        to="bob@example.com", from_email="a@b.c", subject="A", body="b", headers={}
    )


def test_of_a_crowd_one_has_its_turn(db: None) -> None:
    gate = Barrier(8)

    def take(number: int) -> bool:
        gate.wait(timeout=30)
        try:
            return ScheduledJob.objects.take(REMINDERS, f"worker {number}")
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as crowd:
        assert sum(crowd.map(take, range(8))) == 1


def test_a_turn_is_over_when_it_is_finished_and_comes_again(db: None) -> None:
    assert ScheduledJob.objects.take(REMINDERS, "one")
    assert not ScheduledJob.objects.take(REMINDERS, "two")
    ScheduledJob.objects.finish(REMINDERS, "one")
    assert not ScheduledJob.objects.take(REMINDERS, "two")
    ScheduledJob.objects.update(due_at=timezone.now())
    assert ScheduledJob.objects.take(REMINDERS, "two")


def test_who_is_silent_for_too_long_is_overtaken_and_ends_nothing(db: None) -> None:
    assert ScheduledJob.objects.take(REMINDERS, "slow")
    assert ScheduledJob.objects.keep(REMINDERS, "slow")
    ScheduledJob.objects.update(due_at=timezone.now() - timedelta(seconds=1))
    assert ScheduledJob.objects.take(REMINDERS, "quick")
    assert not ScheduledJob.objects.keep(REMINDERS, "slow")
    ScheduledJob.objects.finish(REMINDERS, "slow")
    chore = ScheduledJob.objects.get(name=REMINDERS)
    assert chore.worker == "quick"
    assert chore.due_at - timezone.now() <= TURN


def test_a_database_that_is_away_ends_no_scheduler(
    keys: list[str],
    sink: Sink,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.SCHEDULER = True
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    tries: list[int] = []

    def fail_twice(*, may_go_on: Callable[[], bool]) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OperationalError("The database is away.")
        remind(may_go_on=may_go_on)

    monkeypatch.setitem(module.WORK, REMINDERS, fail_twice)
    monkeypatch.setattr(chores, "TURN", timedelta())  # Who fails is overtaken, by itself too.
    scheduler = Scheduler()
    scheduler.start()
    wait_until(lambda: len(sink.received) == KEYS)
    asyncio.run(scheduler.stop())
    assert caplog.text.count("No reminders for now: OperationalError") == 1


def test_a_mail_server_that_is_down_is_logged_once_while_it_lasts(
    db: None,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.OUTBOX_EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    monkeypatch.setattr(module, "MAIL_SECONDS", 0.01)
    for _ in range(3):
        queue_mail()
    scheduler = Scheduler()
    scheduler.start()
    wait_until(lambda: QueuedMail.objects.filter(tries=1).count() == 3)
    asyncio.run(scheduler.stop())
    assert caplog.text.count("No mail for now: MailServerDown: ConnectionRefusedError") == 1


def test_a_stop_ends_the_work_between_two_steps(
    keys: list[str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SCHEDULER = True
    scheduler = Scheduler()

    def remind_and_be_stopped(*, may_go_on: Callable[[], bool]) -> None:
        def may() -> bool:
            if Reminder.objects.exists():
                scheduler.end()
            return may_go_on()

        remind(may_go_on=may)

    monkeypatch.setitem(module.WORK, REMINDERS, remind_and_be_stopped)
    scheduler.start()
    scheduler._thread.join(30)
    assert not scheduler._thread.is_alive()
    assert Reminder.objects.count() == 1

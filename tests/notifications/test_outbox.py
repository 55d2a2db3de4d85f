"""The outbox: mail is queued in the caller's transaction, sent once, retried, and given up."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from smtplib import SMTPServerDisconnected
from threading import Barrier
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives, get_connection
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from keyportal.notifications import emails as keys_mail
from keyportal.notifications import outbox
from keyportal.notifications.models import CLAIM_DURATION, MAX_AGE, QueuedMail
from keyportal.notifications.outbox import MailServerDown, send_due
from keyportal.teams.models import User
from tests.support import forked
from tests.support.mail_server import MailServer
from tests.support.server import database_url, free_port

pytestmark = pytest.mark.django_db
SMTP = "django.core.mail.backends.smtp.EmailBackend"


@pytest.fixture(autouse=True)
def _outbox(settings: Settings) -> None:
    """The product's settings; tests that need a mail server use the fixture `mail_server`."""
    settings.EMAIL_BACKEND = "keyportal.notifications.backend.OutboxBackend"
    settings.OUTBOX_EMAIL_BACKEND = SMTP
    settings.EMAIL_HOST = "127.0.0.1"


@pytest.fixture
def server(mail_server: MailServer, settings: Settings) -> MailServer:
    settings.EMAIL_BACKEND = "keyportal.notifications.backend.OutboxBackend"
    return mail_server


def queue(name: str = "a", to: str = "bob@example.com", **more: Any) -> None:
    EmailMessage(f"The API key {name} leaked", "Rotate it.", to=[to], **more).send()


def subjects(mail_server: MailServer) -> list[str]:
    return [str(message["Subject"]).split()[3] for message in mail_server.received]


def time_passes(**units: float) -> None:
    for mail in QueuedMail.objects.all():
        QueuedMail.objects.filter(pk=mail.pk).update(due_at=mail.due_at - timedelta(**units))


def pauses() -> list[int]:
    """Minutes until each mail is due, rounded."""
    rows = QueuedMail.objects.order_by("pk").annotate(now=Now()).values_list("due_at", "now")
    return [round((due_at - now) / timedelta(minutes=1)) for due_at, now in rows]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == outbox.__name__]


# Writing.


@pytest.mark.django_db(transaction=True)
def test_mail_waits_in_the_database_and_wakes_the_thread_at_the_commit(server: MailServer) -> None:
    outbox.wake.clear()
    with transaction.atomic():
        queue()
        assert not outbox.wake.is_set()
    assert outbox.wake.is_set()
    assert not server.received
    send_due()
    (message,) = server.received
    assert (message["To"], message["From"]) == ("bob@example.com", "keyportal@localhost")
    assert message.get_content() == "Rotate it.\r\n"
    assert not QueuedMail.objects.exists()


@pytest.mark.django_db(transaction=True, databases=["default", "meter"])
@pytest.mark.parametrize("alias", ["default", "meter"])
def test_rolled_back_transaction_sends_no_mail(server: MailServer, alias: str) -> None:
    outbox.wake.clear()
    with transaction.atomic(using=alias):
        keys_mail.send([EmailMessage("A", "b", to=["bob@example.com"])], using=alias)
        assert QueuedMail.objects.using(alias).exists()
        transaction.set_rollback(True, using=alias)
    assert not outbox.wake.is_set()
    send_due()
    assert not server.received


@pytest.mark.any_database
def test_one_mail_is_queued_for_each_recipient(server: MailServer) -> None:
    to, copied = ["alice@example.com", "bob@example.com"], ["ada@example.com"]
    EmailMessage("A", "b", to=to, bcc=copied, headers={"Auto-Submitted": "auto-generated"}).send()
    send_due()
    assert server.recipients == [*to, *copied]
    assert {message["Auto-Submitted"] for message in server.received} == {"auto-generated"}


@pytest.mark.any_database
def test_attachments_and_html_are_rejected() -> None:
    html = EmailMultiAlternatives("A", "b", to=["bob@example.com"])
    html.attach_alternative("<b>b</b>", "text/html")
    attached = EmailMessage("A", "b", to=["bob@example.com"], attachments=[("a.txt", "a", None)])
    for message in (html, attached):
        with pytest.raises(ValueError, match="plain text"):
            get_connection().send_messages([message])
    assert not QueuedMail.objects.exists()


# Sending.


def test_the_mail_that_waits_longest_is_sent_first(server: MailServer) -> None:
    for name in "abc":
        queue(name)
    send_due()
    assert subjects(server) == ["a", "b", "c"]


@pytest.mark.any_database
def test_a_link_that_resets_a_password_is_gone_once_it_is_sent(
    server: MailServer, client: Client, bob: User
) -> None:
    client.post("/accounts/password/reset/", {"email": "bob@example.com"})
    assert "/accounts/password/reset/key/" in QueuedMail.objects.get().body
    send_due()
    assert "/accounts/password/reset/key/" in server.text
    assert not QueuedMail.objects.exists()


@pytest.mark.any_database
def test_mail_is_sent_when_the_mail_server_is_back(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.EMAIL_PORT = free_port()
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "u", "hush"
    queue("a")
    queue("b")
    # The others are not tried: each may take half a minute.
    with pytest.raises(MailServerDown, match="ConnectionRefusedError Connection refused"):
        send_due()
    assert pauses() == [1, 0]
    assert "hush" not in caplog.text
    settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
    with MailServer(settings.EMAIL_PORT).running() as mail_server:
        send_due()
        assert subjects(mail_server) == ["b"]
        time_passes(minutes=1.1)
        send_due()
        assert subjects(mail_server) == ["b", "a"]


@pytest.mark.any_database
def test_refused_mail_password_loses_no_mail(server: MailServer, settings: Settings) -> None:
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "u", "wrong"
    queue()
    with pytest.raises(MailServerDown, match="SMTP"):
        send_due()
    settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
    time_passes(minutes=1.1)
    send_due()
    assert subjects(server) == ["a"]


@pytest.mark.any_database
def test_temporarily_rejected_mail_is_retried_with_growing_delay(
    server: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.deferrals = 8
    queue("a")
    waits = []
    for _ in range(8):
        send_due()
        (pause,) = pauses()
        waits.append(pause)
        time_passes(minutes=pause + 0.1)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (
        logged(caplog)
        == ["A mail could not be sent and will be tried again: SMTPRecipientsRefused 450"] * 8
    )
    server.deferrals = 1
    queue("b")
    send_due()
    assert subjects(server) == ["b"]
    time_passes(minutes=61)
    send_due()
    assert subjects(server) == ["b", "a"]


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("name", "to", "reason"),
    [
        ("a", "eve@example.com", "SMTPRecipientsRefused 550"),
        ("a", "bob@example.com\nBcc: eve@example.com", "ValueError"),
        ("a\nERROR forged", "bob@example.com", "BadHeaderError"),
    ],
)
def test_permanently_rejected_mail_is_given_up_and_blocks_no_other(
    server: MailServer, caplog: pytest.LogCaptureFixture, name: str, to: str, reason: str
) -> None:
    server.rejected_recipients.add("eve@example.com")
    queue(name, to)
    queue("b")
    send_due()
    assert subjects(server) == ["b"]
    assert not QueuedMail.objects.exists()
    subject = f"The API key {name} leaked".replace("\n", " ")
    assert logged(caplog) == [f"A mail was given up: {subject}: {reason}"]


@pytest.mark.any_database
def test_after_three_days_a_mail_is_given_up(
    server: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.deferrals = 3
    queue()
    row = QueuedMail.objects.get()
    for hours, is_there in ((-1, True), (1, False)):
        ago = MAX_AGE + timedelta(hours=hours)
        QueuedMail.objects.update(created_at=row.created_at - ago, due_at=row.due_at)
        send_due()
        assert QueuedMail.objects.exists() == is_there
    given_up = "A mail was given up: The API key a leaked: SMTPRecipientsRefused 450"
    assert logged(caplog)[1] == given_up


@pytest.mark.any_database
def test_often_deferred_mail_waits_at_most_an_hour(
    server: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Attack: somebody whose mail server always defers asks for password resets every day."""
    server.deferrals = 1
    queue()
    QueuedMail.objects.update(tries=100)
    send_due()
    row = QueuedMail.objects.get()
    assert row.due_at - timezone.now() <= timedelta(hours=1)
    assert len(logged(caplog)) == 1


@pytest.mark.any_database
def test_old_mail_is_deleted_while_the_server_is_down(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.EMAIL_PORT = free_port()
    queue()
    QueuedMail.objects.update(created_at=Now() - MAX_AGE - timedelta(hours=1))
    with pytest.raises(MailServerDown):
        send_due()
    assert not QueuedMail.objects.exists()
    assert len(logged(caplog)) == 1


@pytest.mark.any_database
def test_broken_connection_is_opened_again(
    server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = type(get_connection(SMTP))
    send = backend.send_messages

    def break_off(self: Any, messages: list[EmailMessage]) -> int:
        if messages[0].subject.split()[3] == "a":
            self.connection.sock.close()
            raise SMTPServerDisconnected
        return send(self, messages) or 0

    monkeypatch.setattr(backend, "send_messages", break_off)
    queue("a")
    queue("b")
    send_due()
    assert subjects(server) == ["b"]
    assert pauses() == [1]


@pytest.mark.any_database
def test_sending_stops_between_two_mails(server: MailServer) -> None:
    queue("a")
    queue("b")
    send_due(should_continue=lambda: not server.received)
    assert subjects(server) == ["a"]
    assert QueuedMail.objects.get().tries == 0


# Several processes, and their ends.


def test_process_that_dies_while_sending_loses_no_mail(server: MailServer) -> None:
    queue()
    assert QueuedMail.objects.claim_next()
    assert QueuedMail.objects.claim_next() is None
    send_due()
    assert not server.received
    time_passes(seconds=CLAIM_DURATION.total_seconds() + 1)
    send_due()
    assert subjects(server) == ["a"]


def test_process_with_expired_claim_does_not_postpone_mail(server: MailServer) -> None:
    queue()
    slow = QueuedMail.objects.claim_next()
    time_passes(minutes=11)
    assert slow
    assert QueuedMail.objects.claim_next()
    assert slow.postpone()
    assert pauses() == [10]


@pytest.mark.django_db(transaction=True)
def test_concurrent_senders_send_each_mail_once(server: MailServer) -> None:
    for number in range(20):
        queue(str(number))
    gate = Barrier(4)

    def send(_: int) -> None:
        gate.wait(timeout=120)
        try:
            send_due()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as crowd:
        list(crowd.map(send, range(4)))
    assert sorted(subjects(server), key=int) == [str(number) for number in range(20)]


@pytest.mark.any_database
@pytest.mark.django_db(transaction=True)
def test_mail_of_a_program_that_has_ended_is_sent(server: MailServer) -> None:
    """With the product's settings, it wrote the mail into the outbox."""
    send = """
import django; django.setup()
from django.core.mail import EmailMessage
EmailMessage("The API key a leaked", "b", to=["bob@example.com"]).send()"""
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "keyportal.settings",
        "DATABASE_URL": database_url(),
        "EMAIL_URL": server.url,
    }
    done = forked.run(["-c", send], environment=environment)
    assert done.returncode == 0, done.stderr
    assert QueuedMail.objects.count() == 1
    assert not server.received
    send_due()
    assert subjects(server) == ["a"]
    assert not QueuedMail.objects.exists()


@pytest.mark.any_database
def test_the_default_writes_to_the_log(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.OUTBOX_EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
    queue()
    send_due()
    assert "Subject: The API key a leaked" in capsys.readouterr().out


def test_a_poll_is_one_query_that_an_index_answers(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1) as queries:
        send_due()
    QueuedMail.objects.bulk_create(
        QueuedMail(to="a", from_email="b", subject="c", body="d", headers={}) for _ in range(1000)
    )
    QueuedMail.objects.update(due_at=Now() + timedelta(hours=1))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE notifications_queuedmail")
        explain = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
        cursor.execute(explain + queries.captured_queries[0]["sql"])
        plan = "\n".join(str(row) for row in cursor.fetchall())
    assert "notifications_queuedmail_due_at" in plan

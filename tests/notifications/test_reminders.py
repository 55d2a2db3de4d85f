"""Reminders of expiry: recipients, times, and that each is sent once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.changes import Changes, change_key, disable, enable
from keyportal.keys.models import ApiKey
from keyportal.notifications import emails, reminders
from keyportal.notifications.models import Reminder
from keyportal.notifications.reminders import send_reminders
from keyportal.teams.models import Membership, Team, User
from tests.support.mail_server import MailServer

Issue = Callable[..., tuple[ApiKey, str]]
END = datetime(2030, 6, 20, 18, tzinfo=UTC)
PROMPTLY = timedelta(minutes=5)


def before(**units: float) -> datetime:
    """So long before the end, and a little later, as who looks every few minutes is."""
    return END - timedelta(**units) + PROMPTLY


@pytest.fixture
def key(bob: User, issue: Issue) -> ApiKey:
    """Bob's, made 100 days before its expiry."""
    key, _ = issue(bob, "ci", expires_at=END)
    ApiKey.objects.update(created_at=before(days=100))
    return key


def subjects(mail_server: MailServer) -> list[str]:
    return [
        str(message["Subject"]).removeprefix("[Keyportal] ") for message in mail_server.received
    ]


@pytest.mark.any_database
def test_owner_gets_reminders_at_14_days_3_days_and_expiry(
    mail_server: MailServer, key: ApiKey, alice: User
) -> None:
    for hours in range(24 * 20, -24 * 20, -24):
        send_reminders(before(hours=hours))
    assert subjects(mail_server) == [
        'API key "ci" expires in 14 days',
        'API key "ci" expires in 3 days',
        'API key "ci" has expired',
    ]
    assert mail_server.recipients == ["bob@example.com"] * 3


@pytest.mark.any_database
def test_no_reminder_before_the_first_stage(mail_server: MailServer, key: ApiKey) -> None:
    for days in (14, 3, 0):
        assert send_reminders(before(days=days) - 2 * PROMPTLY) == 0
        assert send_reminders(before(days=days)) == 1


@pytest.mark.any_database
def test_mail_names_and_links_the_key(
    mail_server: MailServer, bob: User, issue: Issue, settings: Settings
) -> None:
    settings.PUBLIC_URL = "https://keys.example.com"
    key, plaintext = issue(bob, "ci", expires_at=END)
    send_reminders(before(days=14))
    (message,) = mail_server.received
    text = message.get_content()
    assert f'the API key "ci" ({key.public_id}) of the team "Acme"' in text
    assert "expires on 2030-06-20 at 18:00 UTC" in text
    page = f"https://keys.example.com/teams/u-8105f7322477/keys/{key.public_id}/"
    assert page in text.splitlines()
    assert plaintext[16:] not in message.as_string()
    assert "Its owner" not in text


@pytest.mark.any_database
def test_without_a_public_address_there_is_no_link(
    mail_server: MailServer, key: ApiKey, settings: Settings
) -> None:
    settings.PUBLIC_URL = ""
    send_reminders(before(days=14))
    assert "/teams/" not in mail_server.received[0].get_content()


@pytest.mark.any_database
def test_each_reminder_is_in_the_audit_and_in_the_keys_history(
    mail_server: MailServer, key: ApiKey, team: Team
) -> None:
    send_reminders(before(days=3))
    row = AuditEvent.objects.for_team(team).for_key(key.public_id).get(action=Action.KEY_REMINDED)
    assert row.target == f"ci ({key.public_id}): 3 days before its expiry, to bob"
    assert (row.actor, row.address) == ("", None)


def test_late_run_sends_only_the_current_stage(mail_server: MailServer, key: ApiKey) -> None:
    send_reminders(before(days=1.5))
    assert subjects(mail_server) == ['API key "ci" expires in 2 days']
    send_reminders(before(days=1))
    assert len(mail_server.received) == 1


def test_no_reminder_a_week_after_expiry(mail_server: MailServer, key: ApiKey) -> None:
    assert send_reminders(END + timedelta(days=7, hours=1)) == 0
    assert send_reminders(END + timedelta(days=6)) == 1


@pytest.mark.any_database
@pytest.mark.parametrize(("lifetime", "told"), [(15, 3), (13, 2), (2, 1)])
def test_new_key_gets_no_reminder_of_a_stage_it_was_created_in(
    mail_server: MailServer, key: ApiKey, lifetime: int, told: int
) -> None:
    ApiKey.objects.update(created_at=before(days=lifetime))
    assert send_reminders(before(days=lifetime)) == 0
    for days in (14, 3, 0):
        if days < lifetime:
            send_reminders(before(days=days))
    assert len(mail_server.received) == told


def test_changed_expiry_gets_new_reminders(
    mail_server: MailServer, bob: User, issue: Issue
) -> None:
    now = timezone.now()
    key, _ = issue(bob, "ci", actor=bob, expires_at=now + timedelta(days=20))
    assert send_reminders(now + timedelta(days=7)) == 1
    change_key(key, Changes(expires_at=now + timedelta(days=40)), actor=bob)
    assert send_reminders(now + timedelta(days=7)) == 0
    assert send_reminders(now + timedelta(days=27)) == 1
    assert subjects(mail_server) == ['API key "ci" expires in 13 days'] * 2


@pytest.mark.any_database
def test_earlier_expiry_gets_no_immediate_reminder(
    mail_server: MailServer, bob: User, issue: Issue
) -> None:
    now = timezone.now()
    key, _ = issue(bob, "ci", expires_at=now + timedelta(days=300))
    ApiKey.objects.update(created_at=now - timedelta(days=300))
    change_key(key, Changes(expires_at=now + timedelta(days=10)), actor=bob)
    assert send_reminders(now + timedelta(minutes=1)) == 0
    assert send_reminders(now + timedelta(days=8)) == 1


@pytest.mark.any_database
def test_expiry_changed_by_operator_gets_new_reminders(
    mail_server: MailServer, admin_client: Client, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, "ci")
    ApiKey.objects.update(created_at=timezone.now() - timedelta(days=300))
    end = timezone.now() + timedelta(days=10)
    form = {
        "name": "ci",
        "owner": bob.pk,
        "expires_at_0": end.strftime("%Y-%m-%d"),
        "expires_at_1": end.strftime("%H:%M:%S"),
        "secrets-TOTAL_FORMS": "0",
        "secrets-INITIAL_FORMS": "0",
    }
    page = f"/admin/keys/apikey/{key.pk}/change/"
    assert admin_client.post(page, form).status_code == 302
    assert ApiKey.objects.get().expiry_set_at is not None
    assert send_reminders() == 0


@pytest.mark.any_database
def test_key_without_expiry_gets_no_reminder(
    mail_server: MailServer, bob: User, issue: Issue
) -> None:
    issue(bob)
    assert send_reminders(END) == 0


@pytest.mark.any_database
def test_disabled_key_gets_its_reminder_when_enabled(mail_server: MailServer, key: ApiKey) -> None:
    disable(key, actor=None)
    assert send_reminders(before(days=14)) == 0
    enable(key, actor=None)
    Team.objects.update(is_active=False)
    assert send_reminders(before(days=13)) == 0
    Team.objects.update(is_active=True)
    send_reminders(before(days=12))
    assert subjects(mail_server) == ['API key "ci" expires in 12 days']


@pytest.mark.any_database
def test_deleted_key_gets_no_reminder(mail_server: MailServer, key: ApiKey, bob: User) -> None:
    key.revoke(actor=bob)
    assert send_reminders(before(days=3)) == 0


@pytest.mark.any_database
@pytest.mark.parametrize("loss", ["left", "inactive", "no address"])
def test_admins_get_reminder_if_owner_cannot(
    mail_server: MailServer,
    key: ApiKey,
    team: Team,
    alice: User,
    ada: User,
    bob: User,
    vera: User,
    loss: str,
) -> None:
    if loss == "left":
        Membership.objects.filter(user=bob).delete()
        enable(key, actor=ada)  # A disabled key has no reminder.
    elif loss == "inactive":
        User.objects.filter(pk=bob.pk).update(is_active=False)
    else:
        User.objects.filter(pk=bob.pk).update(email="")
    assert send_reminders(before(days=3)) == 1
    assert mail_server.recipients == ["alice@example.com", "ada@example.com"]
    assert all(
        "Its owner, bob, has left" in message.get_content() for message in mail_server.received
    )
    assert AuditEvent.objects.get(action=Action.KEY_REMINDED).target.endswith("to alice, ada")


@pytest.mark.any_database
def test_reminder_without_recipient_is_logged_once(
    mail_server: MailServer, key: ApiKey, caplog: pytest.LogCaptureFixture
) -> None:
    User.objects.update(email="")
    ApiKey.objects.update(name="ci\nERROR forged")
    for _ in range(3):
        assert send_reminders(before(days=3)) == 0
    logged = (
        f"There is no recipient for the reminder about the key ci ERROR forged ({key.public_id})."
    )
    ours = [record for record in caplog.records if record.name == reminders.__name__]
    assert [record.getMessage() for record in ours] == [logged]
    assert not AuditEvent.objects.filter(action=Action.KEY_REMINDED).exists()


@pytest.mark.any_database
def test_line_break_in_name_adds_no_header(mail_server: MailServer, key: ApiKey) -> None:
    ApiKey.objects.update(name="ci\r\nBcc: eve@example.com")
    assert send_reminders(before(days=3)) == 1
    assert mail_server.received[0]["Bcc"] is None
    assert subjects(mail_server) == ['API key "ci Bcc: eve@example.com" expires in 3 days']


def test_reminder_that_cannot_be_queued_is_not_recorded(
    key: ApiKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseError

    with monkeypatch.context() as patched:
        patched.setattr(emails, "send", fail)
        with pytest.raises(DatabaseError):
            send_reminders(before(days=3))
    assert not Reminder.objects.exists()
    assert not AuditEvent.objects.filter(action=Action.KEY_REMINDED).exists()
    assert send_reminders(before(days=3)) == 1


def command() -> str:
    out = StringIO()
    call_command("remind_of_expiry", stdout=out)
    return out.getvalue()


@pytest.mark.any_database
def test_the_command_queues_once_and_says_how_many(
    mail_server: MailServer, bob: User, issue: Issue
) -> None:
    issue(bob, "ci", expires_at=timezone.now() + timedelta(days=13))
    ApiKey.objects.update(created_at=timezone.now() - timedelta(days=30))
    assert command() == "Reminders: 1. The running server sends them.\n"
    assert command() == ""
    assert mail_server.recipients == ["bob@example.com"]

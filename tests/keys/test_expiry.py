"""Reminders of expiry: to whom, when, once, and what happens when the mail server doesn't."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from keyportal.activity.models import Action, AuditEvent
from keyportal.keys import expiry
from keyportal.keys.changes import Changes, change, disable, enable
from keyportal.keys.expiry import Told, remind
from keyportal.keys.models import ApiKey, Reminder
from keyportal.keys.reminders import CLAIM
from keyportal.teams.models import Membership, Role, Team, User
from tests.post import Sink

Issue = Callable[..., tuple[ApiKey, str]]
END = datetime(2030, 6, 20, 18, tzinfo=UTC)
PROMPTLY = timedelta(minutes=5)


def before(**units: float) -> datetime:
    """So long before the end, and a little later, as who looks every few minutes is."""
    return END - timedelta(**units) + PROMPTLY


@pytest.fixture
def key(bob: User, issue: Issue) -> ApiKey:
    """Bob's, made 100 days before its end."""
    key, _ = issue(bob, "ci", expires_at=END)
    ApiKey.objects.update(created_at=before(days=100))
    return key


def subjects(sink: Sink) -> list[str]:
    return [str(letter["Subject"]).removeprefix("[Keyportal] ") for letter in sink.received]


def test_the_owner_is_told_fourteen_and_three_days_before_and_at_the_end(
    sink: Sink, key: ApiKey, alice: User
) -> None:
    for hours in range(24 * 20, -24 * 20, -6):
        remind(before(hours=hours))
    assert subjects(sink) == [
        "The API key ci expires in 14 days",
        "The API key ci expires in 3 days",
        "The API key ci has expired",
    ]
    assert sink.recipients == ["bob@example.com"] * 3


def test_nothing_is_told_too_early(sink: Sink, key: ApiKey) -> None:
    for days in (14, 3, 0):
        assert remind(before(days=days) - 2 * PROMPTLY).sent == 0
        assert remind(before(days=days)).sent == 1


def test_the_mail_names_the_key_and_leads_to_it(
    sink: Sink, bob: User, issue: Issue, settings: Settings
) -> None:
    settings.PUBLIC_URL = "https://keys.example.com"
    key, plaintext = issue(bob, "ci", expires_at=END)
    remind(before(days=14))
    (letter,) = sink.received
    text = letter.get_content()
    assert f'the API key "ci" ({key.public_id}) of the team "Acme"' in text
    assert "expires on 2030-06-20 at 18:00 UTC" in text
    page = f"https://keys.example.com/teams/u-8105f7322477/keys/{key.public_id}/"
    assert page in text.splitlines()
    assert plaintext[16:] not in letter.as_string()
    assert "Its owner" not in text


def test_without_a_public_address_there_is_no_link(
    sink: Sink, key: ApiKey, settings: Settings
) -> None:
    settings.PUBLIC_URL = ""
    remind(before(days=14))
    assert "/teams/" not in sink.received[0].get_content()


def test_each_reminder_is_in_the_audit_and_in_the_keys_history(
    sink: Sink, key: ApiKey, team: Team
) -> None:
    remind(before(days=3))
    row = AuditEvent.objects.of(team).about(key.public_id).get(action=Action.KEY_REMINDED)
    assert row.target == f"ci ({key.public_id}): 3 days before its end, to bob"
    assert (row.actor, row.address) == ("", None)


def test_who_comes_late_tells_the_stage_that_it_is(sink: Sink, key: ApiKey) -> None:
    remind(before(days=1.5))
    assert subjects(sink) == ["The API key ci expires in 2 days"]
    remind(before(days=1))
    assert len(sink.received) == 1


def test_long_after_the_end_nobody_is_told(sink: Sink, key: ApiKey) -> None:
    assert remind(END + timedelta(days=7, hours=1)) == Told()
    assert remind(END + timedelta(days=6)) == Told(sent=1)


@pytest.mark.parametrize(("lifetime", "told"), [(15, 3), (13, 2), (2, 1)])
def test_a_key_is_not_told_of_what_was_so_when_it_was_made(
    sink: Sink, key: ApiKey, lifetime: int, told: int
) -> None:
    ApiKey.objects.update(created_at=before(days=lifetime))
    assert remind(before(days=lifetime)) == Told()
    for days in (14, 3, 0):
        if days < lifetime:
            remind(before(days=days))
    assert len(sink.received) == told


def test_a_key_whose_end_is_moved_is_told_anew(sink: Sink, bob: User, issue: Issue) -> None:
    now = timezone.now()
    key, _ = issue(bob, "ci", actor=bob, expires_at=now + timedelta(days=20))
    assert remind(now + timedelta(days=7)).sent == 1
    change(key, Changes(expires_at=now + timedelta(days=40)), actor=bob)
    assert remind(now + timedelta(days=7)).sent == 0
    assert remind(now + timedelta(days=27)).sent == 1
    assert subjects(sink) == ["The API key ci expires in 13 days"] * 2


def test_an_end_that_is_moved_closer_is_not_told_at_once(
    sink: Sink, bob: User, issue: Issue
) -> None:
    now = timezone.now()
    key, _ = issue(bob, "ci", expires_at=now + timedelta(days=300))
    ApiKey.objects.update(created_at=now - timedelta(days=300))
    change(key, Changes(expires_at=now + timedelta(days=10)), actor=bob)
    assert remind(now + timedelta(minutes=1)).sent == 0
    assert remind(now + timedelta(days=8)).sent == 1


def test_an_operator_who_moves_the_end_counts_too(
    sink: Sink, admin_client: Client, bob: User, issue: Issue
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
    assert remind().sent == 0


def test_a_key_without_an_end_is_never_told(sink: Sink, bob: User, issue: Issue) -> None:
    issue(bob)
    assert remind(END) == Told()


def test_a_key_that_is_off_is_told_when_it_is_on_again(sink: Sink, key: ApiKey) -> None:
    disable(key, actor=None)
    assert remind(before(days=14)) == Told()
    enable(key, actor=None)
    Team.objects.update(is_active=False)
    assert remind(before(days=13)) == Told()
    Team.objects.update(is_active=True)
    remind(before(days=12))
    assert subjects(sink) == ["The API key ci expires in 12 days"]


def test_a_deleted_key_is_not_told(sink: Sink, key: ApiKey, bob: User) -> None:
    key.revoke(actor=bob)
    assert remind(before(days=3)) == Told()


@pytest.mark.parametrize("loss", ["left", "inactive", "no address"])
def test_the_admins_are_told_in_place_of_an_owner_who_can_not_be(
    sink: Sink, key: ApiKey, team: Team, alice: User, ada: User, bob: User, vera: User, loss: str
) -> None:
    if loss == "left":
        Membership.objects.filter(user=bob).delete()
    elif loss == "inactive":
        User.objects.filter(pk=bob.pk).update(is_active=False)
    else:
        User.objects.filter(pk=bob.pk).update(email="")
    assert remind(before(days=3)) == Told(sent=1)
    assert sink.recipients == ["alice@example.com", "ada@example.com"]
    assert all("Its owner, bob, has left" in letter.get_content() for letter in sink.received)
    assert AuditEvent.objects.get(action=Action.KEY_REMINDED).target.endswith("to alice, ada")


def test_a_key_of_which_nobody_can_be_told_is_logged_once(
    sink: Sink, key: ApiKey, caplog: pytest.LogCaptureFixture
) -> None:
    User.objects.update(email="")
    ApiKey.objects.update(name="ci\nERROR forged")
    for _ in range(3):
        assert remind(before(days=3)) == Told()
    logged = f"Nobody can be told that the key ci ERROR forged ({key.public_id}) expires."
    ours = [record for record in caplog.records if record.name == expiry.__name__]
    assert [record.getMessage() for record in ours] == [logged]
    assert not AuditEvent.objects.filter(action=Action.KEY_REMINDED).exists()


def test_a_name_with_a_line_break_makes_no_header(sink: Sink, key: ApiKey) -> None:
    ApiKey.objects.update(name="ci\r\nBcc: eve@example.com")
    assert remind(before(days=3)) == Told(sent=1)
    assert sink.received[0]["Bcc"] is None
    assert subjects(sink) == ["The API key ci Bcc: eve@example.com expires in 3 days"]


def test_a_mail_server_that_is_down_gets_it_when_it_is_up(
    key: ApiKey, bob: User, issue: Issue, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    issue(bob, "other", expires_at=END)
    sink = Sink()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", sink.port
    # It isn't asked for each of the keys: that may take half a minute each time.
    assert remind(before(days=3)) == Told(failed=1)
    assert "wait for the mail server (EMAIL_URL): ConnectionRefusedError" in caplog.text
    assert not AuditEvent.objects.filter(action=Action.KEY_REMINDED).exists()
    with sink.running():
        assert remind(before(days=3)) == Told(sent=2)
        assert remind(before(days=3)) == Told()
    assert len(sink.received) == 2


def test_one_that_is_refused_keeps_none_back_and_is_tried_ever_less_often(
    sink: Sink, key: ApiKey, ada: User, issue: Issue
) -> None:
    issue(ada, "other", expires_at=END)
    sink.refused.add("bob@example.com")
    now, tries = before(days=3), []
    for minutes in range(0, 12 * 60, 10):
        if (told := remind(now + timedelta(minutes=minutes))).failed:
            tries.append(minutes)
        assert told.sent == (minutes == 0)
    assert tries == [0, 10, 30, 70, 150, 310, 630]
    sink.refused.clear()
    assert remind(now + timedelta(days=1)) == Told(sent=1)
    assert sink.recipients == ["ada@example.com", "bob@example.com"]


def test_who_died_between_claim_and_mark_is_replaced_after_an_hour(sink: Sink, key: ApiKey) -> None:
    now = before(days=3)
    assert Reminder.objects.claim(key.public_id, END, 3, now)
    assert Reminder.objects.claim(key.public_id, END, 3, now) is None
    assert remind(now + CLAIM - timedelta(seconds=1)) == Told()
    assert remind(now + CLAIM) == Told(sent=1)


def test_a_claim_that_is_over_is_not_given_back_for_another(key: ApiKey) -> None:
    now = before(days=3)
    slow = Reminder.objects.claim(key.public_id, END, 3, now)
    quick = Reminder.objects.claim(key.public_id, END, 3, now + CLAIM)
    assert slow
    assert quick
    slow.release(now + CLAIM)
    slow.rest(now + CLAIM)
    assert Reminder.objects.get().claimed_until == quick.claimed_until


def test_an_admin_who_can_not_be_reached_keeps_the_other_from_nothing(
    sink: Sink, key: ApiKey, alice: User, ada: User, bob: User
) -> None:
    """And who was told is not told again for the other's sake."""
    Membership.objects.filter(user=bob).delete()
    Membership.objects.filter(user=ada).update(role=Role.ADMIN)
    sink.refused.add("alice@example.com")
    assert remind(before(days=3)) == Told(sent=1)
    assert remind(before(days=2)) == Told()
    assert sink.recipients == ["ada@example.com"]


def command() -> str:
    out = StringIO()
    call_command("remind_of_expiry", stdout=out)
    return out.getvalue()


def test_the_command_sends_once_and_says_how_many(sink: Sink, bob: User, issue: Issue) -> None:
    issue(bob, "ci", expires_at=timezone.now() + timedelta(days=13))
    ApiKey.objects.update(created_at=timezone.now() - timedelta(days=30))
    assert command() == "Reminders sent: 1\n"
    assert command() == ""
    assert sink.recipients == ["bob@example.com"]


def test_the_command_fails_when_it_could_not_send(
    bob: User, issue: Issue, settings: Settings
) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
    issue(bob, "ci", expires_at=timezone.now() + timedelta(days=13))
    ApiKey.objects.update(created_at=timezone.now() - timedelta(days=30))
    with pytest.raises(CommandError, match="run this again later"):
        command()

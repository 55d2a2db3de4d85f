"""Leak reports: what happens to the key, who gets a mail, and how a rotation clears the report."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.core import mail as django_mail
from django.core.mail import EmailMessage
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import changes, keystring
from keyportal.keys.models import ApiKey
from keyportal.keys.rotation import GracePeriod, revoke_old_secret, rotate
from keyportal.leaks import handling
from keyportal.leaks.case import StoppedKey
from keyportal.leaks.reports import GITHUB, OPERATOR, ReportContents, ReportedKey
from keyportal.notifications import emails
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.cases import case
from tests.support.mail_server import MailServer

pytestmark = pytest.mark.django_db
Issue = Callable[..., tuple[ApiKey, str]]
SignIn = Callable[[User], Client]
HTMX = {"HX-Request": "true"}
FOUND = "https://github.com/octocat/hello/blob/main/a.py"


def report(*keys: str, reporter: str = OPERATOR, url: str = "") -> list[StoppedKey]:
    return handling.handle_report(
        ReportContents([ReportedKey(key, url) for key in keys], reporter), address="192.0.2.9"
    )


def sent() -> list[EmailMessage]:
    return django_mail.outbox


def times(key: ApiKey) -> tuple[datetime | None, datetime | None]:
    """When it was disabled, and when reported, as it is now."""
    found = ApiKey.objects.get(pk=key.pk)
    return found.disabled_at, found.reported_at


def rows(action: Action = Action.KEY_REPORTED) -> list[str]:
    return [*AuditEvent.objects.filter(action=action).values_list("target", flat=True)]


def test_reported_key_is_disabled_and_audited(bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    (ended,) = report(text)
    key.refresh_from_db()
    assert (ended.key, ended.outcome) == (key, "disabled")
    assert key.disabled_by == ApiKey.DisabledBy.LEAK
    assert key.disabled_at == key.reported_at
    row = AuditEvent.objects.get(action=Action.KEY_REPORTED)
    assert row.target == f"{key}: reported by an operator"
    assert (row.public_id, row.team_slug, row.address) == (
        key.public_id,
        key.team.slug,
        "192.0.2.9",
    )


@pytest.mark.any_database
def test_only_owner_and_admins_get_a_mail(
    alice: User,
    ada: User,
    bob: User,
    vera: User,
    charlie: User,
    issue: Issue,
    mail_server: MailServer,
) -> None:
    Membership.objects.create(
        team=alice.memberships.get().team, user=User.objects.create_user("mel"), role=Role.ADMIN
    )  # Has no address.
    gone = User.objects.create_user("gone", "gone@example.com", is_active=False)
    Membership.objects.create(team=alice.memberships.get().team, user=gone, role=Role.OWNER)
    key, text = issue(bob, "nightly")
    report(text, reporter=GITHUB, url=FOUND)
    mail_server.wait_for(3)
    assert sorted(mail_server.recipients) == [
        "ada@example.com",
        "alice@example.com",
        "bob@example.com",
    ]
    message = mail_server.received[0]
    assert (
        message["Subject"] == '[Keyportal] API key "nightly" was reported as leaked and is disabled'
    )
    body = message.get_content().replace("\r\n", "\n")
    assert (
        f'"nightly" ({key.public_id}) of the team "Acme"\nwas reported as leaked by GitHub.' in body
    )
    assert f"It was found at\n{FOUND}\n" in body
    assert "http://127.0.0.1:8000/teams/u-8105f7322477/keys/" in body
    assert text[14:30] not in mail_server.text


@pytest.mark.any_database
def test_owner_who_left_gets_no_mail(alice: User, bob: User, issue: Issue) -> None:
    _, text = issue(bob)
    bob.memberships.all().delete()
    report(text)
    assert [message.to for message in sent()] == [["alice@example.com"]]


@pytest.mark.any_database
def test_line_break_in_a_name_adds_no_mail_header(bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    ApiKey.objects.filter(pk=key.pk).update(name="a\r\nBcc: eve@example.com")
    report(text)
    (message,) = sent()
    assert message.subject.endswith(
        'API key "a Bcc: eve@example.com" was reported as leaked and is disabled'
    )
    assert message.recipients() == ["bob@example.com"]


@pytest.mark.any_database
def test_repeated_report_does_nothing(bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    report(text)
    key.refresh_from_db()
    assert report(text, text) == []
    assert ApiKey.objects.get().reported_at == key.reported_at
    assert len(rows()) == len(sent()) == 1


@pytest.mark.any_database
def test_a_reported_key_that_somebody_enabled_is_disabled_by_the_next_report(
    bob: User, issue: Issue
) -> None:
    key, text = issue(bob)
    report(text)
    changes.enable(key, actor=bob, accept_leak=True)
    assert len(report(text)) == 1
    key.refresh_from_db()
    assert key.disabled_by == ApiKey.DisabledBy.LEAK
    assert key.disabled_at == key.reported_at
    assert len(rows()) == 2


@pytest.mark.any_database
def test_mail_says_whether_rotation_enables_the_key(ada: User, bob: User, issue: Issue) -> None:
    _, text = issue(bob, "one")
    held, text_of_held = issue(bob, "two")
    changes.disable(held, actor=ada)
    report(text)
    report(text_of_held)
    bobs = [message for message in sent() if message.to == ["bob@example.com"]]
    first, second = (" ".join(message.body.split()) for message in bobs)
    assert "gives you a new one and enables the key again." in first
    assert "it stays disabled until you" in second
    assert "enables" not in second


@pytest.mark.any_database
def test_one_report_may_hold_keys_of_several_teams(
    bob: User, charlie: User, other_team: Team, issue: Issue
) -> None:
    _, text = issue(bob)
    _, other = issue(charlie, team=other_team)
    unknown = keystring.generate().text
    assert len(report(other, unknown, text)) == 2
    assert ApiKey.objects.filter(disabled_at__isnull=True).count() == 0
    assert sorted(message.to[0] for message in sent()) == ["bob@example.com", "charlie@example.com"]
    for message in sent():
        assert ("Acme" in message.body) == (message.to == ["bob@example.com"])


@pytest.mark.any_database
def test_same_public_id_with_another_secret_is_not_reported(bob: User, issue: Issue) -> None:
    """The public id stands in every list and log; only the secret proves that somebody holds it."""
    key, _ = issue(bob)
    assert report(keystring.generate(key.public_id).text) == []
    assert ApiKey.objects.get().disabled_at is None


@pytest.mark.any_database
def test_ended_secret_disables_nothing(bob: User, issue: Issue) -> None:
    """Or whoever holds one that was rotated away long since could stop the key that lives on."""
    key, text = issue(bob)
    rotate(key, GracePeriod.NOW, actor=bob)
    assert report(text) == []
    key, text = issue(bob, "with-grace")
    rotate(key, GracePeriod.HOUR, actor=bob)
    an_hour_ago = timezone.now() - timedelta(hours=1)
    key.secrets.filter(expires_at__isnull=False).update(expires_at=an_hour_ago)
    assert report(text) == []
    key, text = issue(bob, "first-use")
    new = rotate(key, GracePeriod.FIRST_USE, actor=bob)
    key.secrets.filter(digest=keystring.digest(new.text.encode())).update(
        last_used_at=timezone.now()
    )
    assert report(text) == []
    assert not ApiKey.objects.filter(disabled_at__isnull=False).exists()


@pytest.mark.any_database
@pytest.mark.parametrize("grace", [GracePeriod.HOUR, GracePeriod.FIRST_USE])
def test_old_secret_in_grace_time_can_be_reported(
    bob: User, issue: Issue, grace: GracePeriod
) -> None:
    key, text = issue(bob)
    rotate(key, grace, actor=bob)
    assert len(report(text)) == 1
    assert ApiKey.objects.get().disabled_at


@pytest.mark.any_database
def test_rotation_clears_report_and_enables_key(bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    report(text)
    new = rotate(key, GracePeriod.NOW, actor=bob)
    assert times(key) == (None, None)
    assert rows(Action.KEY_ENABLED) == [str(key)]
    assert report(text) == []
    assert len(report(new.text)) == 1


@pytest.mark.any_database
def test_rotation_does_not_enable_a_key_that_a_person_disabled(bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    changes.disable(key, actor=bob)
    assert len(report(text)) == 1
    rotate(key, GracePeriod.NOW, actor=bob)
    key.refresh_from_db()
    assert key.disabled_by == ApiKey.DisabledBy.OWNER
    assert key.reported_at is None
    assert rows(Action.KEY_ENABLED) == []


@pytest.mark.any_database
def test_report_stays_while_leaked_secret_is_live(bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    report(text)
    rotate(key, GracePeriod.HOUR, actor=bob)
    key.refresh_from_db()
    assert key.disabled_by == ApiKey.DisabledBy.LEAK
    revoke_old_secret(key, actor=bob)
    assert times(key) == (None, None)


@pytest.mark.any_database
def test_leak_of_the_new_secret_during_the_grace_period_is_another_leak(
    bob: User, issue: Issue
) -> None:
    """Or the key would be enabled with it as soon as the old one has ended."""
    key, text = issue(bob)
    report(text)
    new = rotate(key, GracePeriod.HOUR, actor=bob)
    assert len(report(new.text)) == 1
    assert report(text, new.text) == []
    revoke_old_secret(key, actor=bob)
    key.refresh_from_db()
    assert key.disabled_by == ApiKey.DisabledBy.LEAK
    assert key.reported_at
    rotate(key, GracePeriod.NOW, actor=bob)
    assert times(key) == (None, None)


@pytest.mark.any_database
def test_another_leak_does_not_undo_what_a_person_disabled(bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    changes.disable(key, actor=bob)
    report(text)
    new = rotate(key, GracePeriod.HOUR, actor=bob)
    assert len(report(new.text)) == 1
    rotate(key, GracePeriod.NOW, actor=bob)
    disabled_at, reported_at = times(key)
    assert disabled_at
    assert reported_at is None


@pytest.mark.any_database
def test_rotation_of_another_key_enables_nothing(bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    changes.disable(key, actor=bob)
    rotate(key, GracePeriod.NOW, actor=bob)
    assert ApiKey.objects.get().disabled_at


def test_database_error_in_the_notice_undoes_nothing(
    bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseError

    monkeypatch.setattr(emails, "owner_and_admins", fail)
    _, text = issue(bob)
    assert len(report(text)) == 1
    assert ApiKey.objects.get().disabled_at
    assert "The notices of a leak could not be queued: DatabaseError" in caplog.text


PAGES = ["keys/", "models/", "usage/", "members/", "audit/", "guide/", "keys/create/", "limits/"]


@pytest.mark.any_database
def test_every_team_page_has_the_banner_until_rotation(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    key, text = issue(bob, "nightly")
    client, team = sign_in(ada), f"/teams/{key.team.slug}/"
    assert "was reported as leaked" not in client.get(f"{team}keys/").content.decode()
    report(text)
    for page in PAGES:
        shown = client.get(f"{team}{page}").content.decode()
        with case(page):
            assert "was reported as leaked" in shown
            assert "and is disabled" in shown
            assert f'action="{team}keys/{key.public_id}/rotate/"' in shown
            assert '<input type="hidden" name="grace" value="now">' in shown
    rotate(key, GracePeriod.NOW, actor=ada)
    assert "was reported as leaked" not in client.get(f"{team}keys/").content.decode()


@pytest.mark.any_database
def test_one_click_on_the_banner_ends_the_leak(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    report(text)
    client = sign_in(bob)
    page = client.get(f"/teams/{key.team.slug}/guide/").content.decode()
    found = r'class="message error leaked".*?action="([^"]+)".*?name="nonce" value="([^"]+)"'
    ((action, nonce),) = re.findall(found, page, re.DOTALL)
    sent = {"grace": "now", "nonce": nonce}
    shown = client.post(action, sent).content.decode()
    (new,) = {found for found in keystring.find_keys(shown) if found != text}
    assert keystring.digest(new.encode()) == bytes(key.secrets.get().digest)
    assert times(key) == (None, None)
    # Whoever reloads the answer sends the form again, and must not end what was just copied.
    assert client.post(action, sent).status_code == 409
    assert keystring.digest(new.encode()) == bytes(key.secrets.get().digest)


@pytest.mark.any_database
def test_only_members_who_may_change_the_key_see_the_banner(
    alice: User, bob: User, vera: User, charlie: User, issue: Issue
) -> None:
    carol = User.objects.create_user("carol")
    Membership.objects.create(team=bob.memberships.get().team, user=carol, role=Role.MEMBER)
    key, text = issue(bob)
    report(text)
    for person, is_asked in ((alice, True), (bob, True), (vera, False), (carol, False)):
        client = Client()
        client.force_login(person)
        page = client.get(f"/teams/{key.team.slug}/guide/").content.decode()
        assert ("was reported as leaked" in page) == is_asked
    client = Client()
    client.force_login(charlie)
    assert "reported" not in client.get("/teams/u-0000000000cc/guide/").content.decode()


@pytest.mark.any_database
def test_banner_lists_at_most_five_keys(sign_in: SignIn, bob: User, issue: Issue) -> None:
    report(*(issue(bob, f"key {number}")[1] for number in range(8)))
    page = sign_in(bob).get("/teams/u-8105f7322477/guide/").content.decode()
    assert page.count("was reported as leaked") == 5
    assert "3 more of your keys" in page


@pytest.mark.any_database
def test_banner_says_that_an_enabled_key_still_works(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, text = issue(bob)
    report(text)
    changes.enable(key, actor=bob, accept_leak=True)
    page = sign_in(bob).get(f"/teams/{key.team.slug}/keys/").content.decode()
    assert "and still works" in page


@pytest.mark.any_database
def test_report_of_deleted_key_does_nothing(bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    key.revoke(actor=bob)
    assert report(text) == []
    assert rows() == []
    assert not sent()


@pytest.mark.any_database
def test_repr_does_not_contain_the_key() -> None:
    found = ReportedKey(keystring.generate().text, FOUND)
    for shown in (repr(found), str(found), repr(ReportContents([found])), repr([found])):
        assert found.text[14:20] not in shown


@pytest.mark.any_database
def test_an_expired_key_is_reported_too_because_it_can_be_extended(bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    ApiKey.objects.update(expires_at=timezone.now() - timedelta(days=1))
    assert len(report(text)) == 1
    key.refresh_from_db()
    assert key.reported_at


@pytest.mark.any_database
def test_banner_omits_the_key_of_the_page(sign_in: SignIn, bob: User, issue: Issue) -> None:
    (here, text), (_, other) = issue(bob, "here"), issue(bob, "other")
    report(text, other)
    team, client = f"/teams/{here.team.slug}/", sign_in(bob)
    page = client.get(f"{team}keys/{here.public_id}/").content.decode()
    assert f'hx-get="{team}keys/leaks/?beside={here.public_id}"' in page
    for beside, count in ((f"?beside={here.public_id}", 1), ("", 2)):
        shown = client.get(f"{team}keys/leaks/{beside}", headers=HTMX).content.decode()
        assert shown.count("Rotate it now") == count
    evil = client.get(f'{team}keys/leaks/?beside="><b>', headers=HTMX).content.decode()
    assert "<b>" not in evil

"""Leak notices: one mail to each person for a report, and a limit by hour for each team."""

import time
from collections.abc import Callable
from functools import partial

import pytest
from django.core import mail as django_mail
from django.core.cache import cache
from django.core.mail import EmailMessage
from django.db import DatabaseError
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import changes
from keyportal.keys.models import ApiKey
from keyportal.keys.rotation import GracePeriod, rotate
from keyportal.leaks import emails, handling
from keyportal.leaks.case import StoppedKey
from keyportal.leaks.reports import ANONYMOUS, GITHUB, OPERATOR, ReportContents, ReportedKey
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.concurrency import run_concurrently

pytestmark = pytest.mark.django_db
Issue = Callable[..., tuple[ApiKey, str]]
MAILS_PER_HOUR = 3


@pytest.fixture(autouse=True)
def low_mail_limit(db: None, settings: Settings) -> None:
    """A low limit; and no counts from other tests, which the cache keeps."""
    settings.ACCOUNT_RATE_LIMITS = {"leak_mail": f"{MAILS_PER_HOUR}/h/key"}
    cache.clear()


@pytest.fixture
def mel(team: Team) -> User:
    """Another member."""
    user = User.objects.create_user("mel", "mel@example.com")
    Membership.objects.create(team=team, user=user, role=Role.MEMBER)
    return user


def report(*keys: str, reporter: str = ANONYMOUS) -> list[StoppedKey]:
    return handling.handle_report(ReportContents([ReportedKey(key) for key in keys], reporter))


def sent_to(person: User) -> list[EmailMessage]:
    return [message for message in django_mail.outbox if message.to == [person.email]]


@pytest.mark.any_database
def test_report_of_several_keys_is_one_mail_to_each_person(
    alice: User, bob: User, mel: User, charlie: User, other_team: Team, issue: Issue
) -> None:
    """Each reads of the keys that concern them, in all their teams."""
    Membership.objects.create(team=other_team, user=alice, role=Role.ADMIN)
    (one, a), (two, b) = issue(bob, "one"), issue(bob, "two & more")
    three, c = issue(mel, "three")
    four, d = issue(charlie, "four", team=other_team)
    report(a, b, c, d)
    for person, keys in (
        (alice, [one, two, three, four]),
        (bob, [one, two]),
    ):
        (message,) = sent_to(person)
        assert (
            message.subject
            == f"[Keyportal] {len(keys)} keys were reported as leaked and are disabled"
        )
        told = [line for line in message.body.splitlines() if line.startswith("- ")]
        assert told == [
            f'- The API key "{key.name}" ({key.public_id}) of {key.owner.get_username()} in the '
            f'team "{key.team.name}" is disabled.'
            for key in keys
        ]
        assert "as leaked by someone who has them." in message.body
    for person, key in ((mel, three), (charlie, four)):
        (message,) = sent_to(person)
        assert (
            message.subject
            == f'[Keyportal] API key "{key.name}" was reported as leaked and is disabled'
        )
    assert one.team.slug not in sent_to(charlie)[0].body


@pytest.mark.any_database
def test_mail_about_several_keys_gives_the_outcome_of_each(
    ada: User, bob: User, issue: Issue
) -> None:
    (_, a), (held, b) = issue(bob, "one"), issue(bob, "held")
    changes.disable(held, actor=ada)
    report(a, b)
    (message,) = sent_to(bob)
    assert message.subject == "[Keyportal] 2 keys were reported as leaked and are disabled"
    assert 'in the team "Acme" is disabled.\n' in message.body
    assert 'in the team "Acme" is disabled, as it was before.\n' in message.body


@pytest.mark.any_database
def test_a_name_in_a_list_is_one_line_too(bob: User, issue: Issue) -> None:
    key, a = issue(bob, "a")
    _, b = issue(bob, "b")
    ApiKey.objects.filter(pk=key.pk).update(name="a\r\n\r\nEnter your password at\u202e evil")
    report(a, b)
    assert '"a Enter your password at evil" (' in sent_to(bob)[0].body


@pytest.mark.any_database
def test_mail_lists_a_limited_number_of_keys(
    bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emails, "MAX_LISTED_KEYS", 2)
    report(*(issue(bob, f"key {number}")[1] for number in range(5)))
    (message,) = sent_to(bob)
    assert message.subject == "[Keyportal] 5 keys were reported as leaked and are disabled"
    assert message.body.count("- The API key") == 2
    assert "- 3 more, which the audit log lists." in message.body


def test_notice_is_sent_for_keys_disabled_before_an_error(
    bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second report would not mention the key, so its owner would get no notice."""
    (first, a), (_, b) = issue(bob, "first"), issue(bob, "second")
    save = ApiKey.save

    def fail(key: ApiKey, **more: object) -> None:
        if key.pk != first.pk:
            raise DatabaseError
        save(key, **more)  # type: ignore[arg-type]  # as it was asked

    monkeypatch.setattr(ApiKey, "save", fail)
    with pytest.raises(DatabaseError):
        report(a, b)
    (message,) = sent_to(bob)
    assert 'API key "first" was reported as leaked' in message.subject


def report_one_by_one(issue: Issue, owner: User, count: int, reporter: str = ANONYMOUS) -> None:
    for number in range(count):
        assert len(report(issue(owner, f"{reporter} {number}")[1], reporter=reporter)) == 1


@pytest.mark.any_database
def test_mail_to_a_team_is_limited_by_hour_but_every_key_is_disabled(
    alice: User, bob: User, issue: Issue
) -> None:
    """Attack: a member creates keys and reports them, to send mail without end."""
    report_one_by_one(issue, bob, MAILS_PER_HOUR + 2)
    assert len(sent_to(alice)) == len(sent_to(bob)) == MAILS_PER_HOUR
    assert "a limited number of these mails an hour" in sent_to(alice)[0].body
    assert not ApiKey.objects.filter(disabled_at=None).exists()
    assert AuditEvent.objects.filter(action=Action.KEY_REPORTED).count() == MAILS_PER_HOUR + 2


@pytest.mark.any_database
def test_mail_resumes_after_an_hour(
    bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_one_by_one(issue, bob, MAILS_PER_HOUR + 1)
    later = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    report(issue(bob, "later")[1])
    assert len(sent_to(bob)) == MAILS_PER_HOUR + 1


@pytest.mark.any_database
def test_a_key_that_is_enabled_or_rotated_and_reported_again_counts_too(
    bob: User, issue: Issue
) -> None:
    key, text = issue(bob)
    for number in range(MAILS_PER_HOUR + 2):
        assert len(report(text)) == 1
        if number % 2:
            text = rotate(key, GracePeriod.NOW, actor=bob).text
        else:
            changes.enable(key, actor=bob, accept_leak=True)
    assert len(sent_to(bob)) == MAILS_PER_HOUR


@pytest.mark.any_database
def test_each_team_has_its_own_mail_limit(
    bob: User, charlie: User, other_team: Team, issue: Issue
) -> None:
    report_one_by_one(issue, bob, MAILS_PER_HOUR)
    report(issue(bob)[1], issue(charlie, "there", team=other_team)[1])
    assert len(sent_to(bob)) == MAILS_PER_HOUR
    assert len(sent_to(charlie)) == 1


@pytest.mark.any_database
@pytest.mark.parametrize("reporter", [GITHUB, OPERATOR])
def test_reports_by_github_or_operator_do_not_count(
    alice: User, bob: User, issue: Issue, reporter: str
) -> None:
    report_one_by_one(issue, bob, MAILS_PER_HOUR + 2, reporter)
    assert len(sent_to(alice)) == MAILS_PER_HOUR + 2
    assert "of these mails an hour" not in sent_to(alice)[0].body
    report(issue(bob, "real")[1])
    assert len(sent_to(alice)) == MAILS_PER_HOUR + 3


@pytest.mark.django_db(transaction=True)
def test_concurrent_reports_of_one_key_send_one_mail(bob: User, issue: Issue) -> None:
    _, text = issue(bob, "a")
    run_concurrently(*[partial(report, text)] * 6)
    assert len(sent_to(bob)) == 1
    assert AuditEvent.objects.filter(action=Action.KEY_REPORTED).count() == 1


@pytest.mark.django_db(transaction=True)
def test_concurrent_reports_share_one_mail_limit(bob: User, issue: Issue) -> None:
    texts = [issue(bob, f"b{number}")[1] for number in range(MAILS_PER_HOUR + 3)]
    run_concurrently(*(partial(report, text) for text in texts))
    assert 0 < len(sent_to(bob)) <= MAILS_PER_HOUR
    assert not ApiKey.objects.filter(reported_at=None).exists()


@pytest.mark.django_db(transaction=True)
def test_crash_before_the_notice_is_queued_undoes_the_disabling(
    bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a second report would find the key disabled, and its owner would get no notice."""
    _, text = issue(bob)

    def crash(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("keyportal.leaks.emails.emails.send", crash)
        with pytest.raises(SystemExit):
            report(text)
    assert ApiKey.objects.get().disabled_at is None
    assert len(report(text)) == 1
    assert len(sent_to(bob)) == 1


@pytest.mark.django_db(transaction=True)
def test_unexpected_error_in_the_notice_undoes_nothing(
    bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("keyportal.leaks.emails.emails.send", fail)
    assert len(report(issue(bob)[1])) == 1
    assert ApiKey.objects.get().disabled_at
    assert "could not be queued: RuntimeError" in caplog.text

"""`manage.py report_leak`, for operators."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.notifications.models import QueuedMail
from keyportal.teams.models import User

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]


def report(monkeypatch: pytest.MonkeyPatch, text: str, *arguments: str) -> str:
    told = StringIO()
    monkeypatch.setattr("sys.stdin", StringIO(text))
    call_command("report_leak", *arguments, stdout=StringIO(), stderr=told)
    return told.getvalue()


def test_keys_come_in_by_standard_input_several_at_a_time(
    monkeypatch: pytest.MonkeyPatch, bob: User, issue: Issue, settings: Settings
) -> None:
    settings.EMAIL_BACKEND = "keyportal.notifications.backend.OutboxBackend"
    (first, one), (second, two) = issue(bob), issue(bob, "b")
    told = report(monkeypatch, f"{one}\nKEY={two}\n\n{keystring.generate().text}\nnonsense\n")
    assert f"Disabled {first} of u-8105f7322477." in told
    assert f"Disabled {second} of u-8105f7322477." in told
    assert "Not live, or already reported: 1 of 3." in told
    assert "The running server mails the owners and the team's admins." in told
    mails = QueuedMail.objects.all()
    assert {mail.to for mail in mails} == {"bob@example.com"}
    for text in (told, *(mail.subject + mail.body for mail in mails)):
        assert one[14:30] not in text
        assert two[14:30] not in text
    assert ApiKey.objects.filter(reported_at__isnull=True).count() == 0
    row = AuditEvent.objects.filter(action=Action.KEY_REPORTED).latest("pk")
    assert (row.target, row.actor, row.address) == (f"{second}: reported by an operator", "", None)


def test_they_come_from_a_file_too(
    monkeypatch: pytest.MonkeyPatch, bob: User, issue: Issue, tmp_path: Path
) -> None:
    key, text = issue(bob)
    (tmp_path / "found.txt").write_text(f"a {text} b")
    assert f"Disabled {key}" in report(monkeypatch, "", str(tmp_path / "found.txt"))
    assert report(monkeypatch, text, "-") == "Not live, or already reported: 1 of 1.\n"


def test_a_key_as_an_argument_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, bob: User, issue: Issue
) -> None:
    key, text = issue(bob)
    with pytest.raises(CommandError, match="a key as an argument") as refusal:
        report(monkeypatch, "", text)
    assert text[14:30] not in str(refusal.value)
    key.refresh_from_db()
    assert key.disabled_at is None


def test_unreadable_file_or_text_without_key_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match="No such file"):
        report(monkeypatch, "", str(tmp_path / "nowhere"))
    with pytest.raises(CommandError, match="no complete key"):
        report(monkeypatch, keystring.generate().text[:-1])

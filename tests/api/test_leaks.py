"""Leaked management keys: a report deletes them."""

import re
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core import mail as django_mail
from django.core.cache import cache
from django.core.mail import EmailMessage
from django.core.management import call_command
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from keyportal.api.models import ManagementKey
from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.notifications import emails
from keyportal.teams.models import Team, User
from tests.support.api_client import NewApiClient
from tests.support.github import URL, GitHubScanner, report_body
from tests.support.mail_server import MailServer

pytestmark = pytest.mark.django_db
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture(autouse=True)
def clear_cache(db: None) -> None:
    """The table of counts is none that is emptied after a test."""
    cache.clear()


@pytest.fixture
def client() -> Client:
    return Client(enforce_csrf_checks=True)


def report(client: Client, *texts: str, **headers: str) -> Any:
    body = " ".join(texts).encode()
    return client.post("/leaks/report", body, content_type="text/plain", headers=headers)


def sent_messages() -> list[EmailMessage]:
    return django_mail.outbox


def text_of(new_api_client: NewApiClient, owner: User, **more: Any) -> str:
    program = new_api_client(owner, **more)
    assert program.token
    return program.token


def rows() -> list[tuple[str, str]]:
    about = AuditEvent.objects.exclude(action=Action.MANAGEMENT_KEY_CREATED).order_by("pk")
    return [*about.values_list("action", "target")]


def test_reported_management_key_is_deleted_and_audited(
    client: Client, ada: User, new_api_client: NewApiClient
) -> None:
    program = new_api_client(ada)
    assert program.get("self").status_code == 200
    response = report(client, f"export TOKEN={program.token}\n")
    assert response.status_code == 202
    assert program.get("self").status_code == 401
    assert not ManagementKey.objects.exists()
    assert rows() == [
        (
            Action.KEY_REPORTED,
            f"management key {program.key}: reported by someone who has it",
        ),
        (Action.MANAGEMENT_KEY_DELETED, str(program.key)),
    ]
    for row in AuditEvent.objects.exclude(action=Action.MANAGEMENT_KEY_CREATED):
        assert (row.team_slug, row.actor, row.address) == (program.key.team.slug, "", "127.0.0.1")


@pytest.mark.any_database
def test_report_with_both_kinds_disables_and_deletes(
    client: Client,
    ada: User,
    bob: User,
    charlie: User,
    other_team: Team,
    issue: Issue,
    new_api_client: NewApiClient,
) -> None:
    key, text = issue(bob)
    mine, others = text_of(new_api_client, ada), text_of(new_api_client, charlie, team=other_team)
    stays = new_api_client(ada, "stays")
    assert report(client, mine, text, others, keystring.generate().text).status_code == 202
    key.refresh_from_db()
    assert key.disabled_at
    assert [*ManagementKey.objects.all()] == [stays.key]
    assert [action for action, _ in rows()].count(Action.KEY_REPORTED) == 3
    messages = {message.to[0]: message for message in sent_messages()}
    assert sorted(messages) == ["ada@example.com", "bob@example.com", "charlie@example.com"]
    both = messages["ada@example.com"]
    assert both.subject == "[Keyportal] 2 keys were reported as leaked and are disabled or deleted"
    assert f'- The API key "test-key" ({key.public_id}) of bob in' in both.body
    assert "- The management key " in both.body
    assert (
        "API keys that were created or rotated with a deleted management key still work."
        in both.body
    )
    assert both.body.count("http://127.0.0.1:8000/teams/") == 2
    assert messages["bob@example.com"].subject.startswith("[Keyportal] API key ")
    assert messages["charlie@example.com"].subject.startswith("[Keyportal] Management key ")


@pytest.mark.any_database
def test_owner_and_admins_get_a_mail_without_the_key(
    client: Client,
    alice: User,
    ada: User,
    bob: User,
    vera: User,
    new_api_client: NewApiClient,
    mail_server: MailServer,
) -> None:
    program = new_api_client(ada, "deploy")
    text = program.token or ""
    report(client, text)
    mail_server.wait_for(2)
    assert sorted(mail_server.recipients) == ["ada@example.com", "alice@example.com"]
    message = mail_server.received[0]
    assert (
        message["Subject"]
        == '[Keyportal] Management key "deploy" was reported as leaked and is deleted'
    )
    body = message.get_content().replace("\r\n", "\n")
    assert f'"deploy" ({program.key.public_id}) of the team "Acme"' in body
    assert "http://127.0.0.1:8000/teams/u-8105f7322477/management-keys/" in body
    assert text[14:30] not in mail_server.text


@pytest.mark.any_database
def test_response_is_the_same_for_any_management_key(
    client: Client, ada: User, issue: Issue, new_api_client: NewApiClient
) -> None:
    live, dead = text_of(new_api_client, ada), new_api_client(ada, "dead")
    dead.key.revoke(actor=ada)
    unknown = keystring.generate(prefix="mk-kp-").text
    for html in ({}, {"Accept": "text/html"}):
        responses = set()
        for text in (live, live, dead.token or "", unknown, issue(ada, f"{html}")[1]):
            response = report(client, text, **html)
            del response["Expires"]  # Now, by the second.
            page = re.sub(rb'csrf\w*": "[^"]*', b"", response.content)
            assert text[14:30].encode() not in page
            responses.add((response.status_code, page, str(response.headers)))
        assert len(responses) == 1
        assert next(iter(responses))[0] == 202


@pytest.mark.any_database
def test_look_alike_deletes_nothing(
    client: Client, ada: User, new_api_client: NewApiClient
) -> None:
    """The public id is no secret; and a key of the one kind is none of the other."""
    program = new_api_client(ada)
    text, public_id = program.token or "", program.key.public_id
    report(client, keystring.generate(public_id, prefix="mk-kp-").text)
    report(client, keystring.generate(public_id).text)
    assert report(client, text[:-1]).status_code == 400
    assert report(client, text.replace("mk-", "sk-")).status_code == 400
    assert program.get("self").status_code == 200
    assert rows() == []
    assert not sent_messages()


@pytest.mark.any_database
def test_repeated_report_does_nothing(
    client: Client, ada: User, new_api_client: NewApiClient
) -> None:
    text = text_of(new_api_client, ada)
    report(client, text, text)
    report(client, text)
    assert len(rows()) == 2
    assert len(sent_messages()) == 1


def test_management_key_deleted_at_the_same_time_is_not_reported(
    client: Client, ada: User, new_api_client: NewApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found, and gone before it could be ended: no row says that the report ended it."""
    first, second = new_api_client(ada, "first"), new_api_client(ada, "second")
    revoke = ManagementKey.revoke

    def revoke_and_delete_all(key: ManagementKey, **who: Any) -> None:
        revoke(key, **who)
        ManagementKey.objects.all().delete()

    monkeypatch.setattr(ManagementKey, "revoke", revoke_and_delete_all)
    assert report(client, first.token or "", second.token or "").status_code == 202
    assert [action for action, _ in rows()] == [Action.KEY_REPORTED, Action.MANAGEMENT_KEY_DELETED]
    assert all(str(first.key) in target for _, target in rows())
    (message,) = sent_messages()
    assert (
        message.subject
        == '[Keyportal] Management key "first" was reported as leaked and is deleted'
    )


@pytest.mark.any_database
def test_expired_or_ownerless_management_key_is_deleted(
    client: Client, alice: User, ada: User, new_api_client: NewApiClient
) -> None:
    """An owner who comes back would make it work again."""
    expired = text_of(new_api_client, ada, expires_at=timezone.now() + timedelta(days=1))
    ManagementKey.objects.update(expires_at=timezone.now() - timedelta(days=1))
    left = text_of(new_api_client, ada, name="left")
    User.objects.filter(pk=ada.pk).update(is_active=False)
    report(client, expired, left)
    assert not ManagementKey.objects.exists()
    (message,) = sent_messages()
    assert (message.to, "2 keys were reported" in message.subject) == (["alice@example.com"], True)


@pytest.mark.any_database
def test_mail_about_management_keys_is_limited_too(
    client: Client, alice: User, ada: User, new_api_client: NewApiClient, settings: Settings
) -> None:
    settings.ACCOUNT_RATE_LIMITS = {"leak_mail": "3/h/key"}
    for number in range(5):
        assert report(client, text_of(new_api_client, ada, name=f"m{number}")).status_code == 202
    assert not ManagementKey.objects.exists()
    assert [message.to for message in sent_messages()].count([alice.email]) == 3


@pytest.mark.any_database
def test_session_makes_no_difference(
    ada: User, charlie: User, other_team: Team, new_api_client: NewApiClient
) -> None:
    """Another team's owner who holds the key ends it as a stranger would, by no other right."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(charlie)
    assert report(client, text_of(new_api_client, ada)).status_code == 202
    assert not ManagementKey.objects.exists()
    assert set(AuditEvent.objects.values_list("actor", flat=True)) <= {"", "charlie"}
    deleted = AuditEvent.objects.filter(action=Action.MANAGEMENT_KEY_DELETED)
    assert [(row.actor, row.via) for row in deleted] == [("", "")]


@pytest.mark.any_database
def test_no_session_is_created(client: Client, ada: User, new_api_client: NewApiClient) -> None:
    response = report(client, text_of(new_api_client, ada))
    assert response.status_code == 202
    assert not response.cookies


@pytest.mark.any_database
def test_github_report_includes_the_location(
    client: Client, ada: User, new_api_client: NewApiClient, settings: Settings, tmp_path: Path
) -> None:
    github, program = GitHubScanner(), new_api_client(ada)
    settings.GITHUB_KEYS_FILE = github.publish(tmp_path)
    text = program.token or ""
    body = report_body(keystring.generate().text, text, url=f"{URL}?q={text}")
    for signer, status in ((GitHubScanner(), 403), (github, 202)):
        assert program.get("self").status_code == 200
        headers = signer.headers(body)
        kind = headers.pop("Content-Type")
        response = client.post("/leaks/report", body, content_type=kind, headers=headers)
        assert response.status_code == status
    assert program.get("self").status_code == 401
    (message,) = sent_messages()
    (_, target), _ = rows()
    for shown in (target, message.body):
        assert "GitHub" in shown
        assert URL in shown
        assert text[14:30] not in shown


@pytest.mark.any_database
def test_report_leak_command_revokes_both_kinds(
    bob: User,
    ada: User,
    issue: Issue,
    new_api_client: NewApiClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (key, text), program, stderr = issue(bob), new_api_client(ada), StringIO()
    monkeypatch.setattr("sys.stdin", StringIO(f"{text}\n{program.token}\n"))
    call_command("report_leak", stdout=StringIO(), stderr=stderr)
    slug = key.team.slug
    assert stderr.getvalue() == (
        f"Disabled {key} of {slug}.\nDeleted {program.key} of {slug}.\n"
        "The running server mails the owners and the team's admins.\n"
    )
    assert not ManagementKey.objects.exists()


def test_database_error_in_the_notice_undoes_no_deletion(
    client: Client,
    ada: User,
    new_api_client: NewApiClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseError

    monkeypatch.setattr(emails, "owner_and_admins", fail)
    text = text_of(new_api_client, ada)
    assert report(client, text).status_code == 202
    assert not ManagementKey.objects.exists()
    assert "The notices of a leak could not be queued: DatabaseError" in caplog.text
    assert text[14:30] not in caplog.text


def test_crash_rolls_back_both_changes_and_logs_no_key(
    ada: User,
    new_api_client: NewApiClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    program = new_api_client(ada)

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(ManagementKey, "delete", crash)
    client = Client(raise_request_exception=False)
    assert report(client, program.token or "").status_code == 500
    assert program.get("self").status_code == 200
    assert rows() == []
    assert "out of luck" in caplog.text
    assert (program.token or "")[14:30] not in caplog.text


@pytest.mark.any_database
def test_keys_created_by_a_leaked_management_key_stay(
    client: Client, ada: User, new_api_client: NewApiClient
) -> None:
    program = new_api_client(ada)
    assert program.post("keys", {"name": "made"}).status_code == 201
    report(client, program.token or "")
    assert ApiKey.objects.get().disabled_at is None

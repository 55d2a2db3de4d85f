"""The public report of a leaked key: formats, responses, limits, and reports by GitHub."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.core.cache import cache
from django.http import HttpRequest
from django.test import Client
from django.views.debug import ExceptionReporter
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.keys.rotation import GracePeriod, rotate
from keyportal.leaks import handling
from keyportal.leaks.reports import MAX_BYTES
from keyportal.leaks.views import public
from keyportal.teams.models import User
from tests.support.cases import case
from tests.support.github import KEY_IDENTIFIER, URL, GitHubScanner, report_body

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
REPORT = "/leaks/report"
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture(autouse=True)
def unlimited(db: None) -> None:
    """The table of counts is none that is emptied after a test."""
    cache.clear()


@pytest.fixture
def client() -> Client:
    return Client(enforce_csrf_checks=True)


@pytest.fixture
def github(settings: Settings, tmp_path: Path) -> GitHubScanner:
    github = GitHubScanner()
    settings.GITHUB_KEYS_FILE = github.publish(tmp_path)
    return github


def post(client: Client, body: bytes, kind: str = "text/plain", **headers: str) -> Any:
    return client.post(REPORT, body, content_type=kind, headers=headers)


def as_github(client: Client, github: GitHubScanner, body: bytes, **more: str) -> Any:
    headers = github.headers(body) | more
    return client.post(REPORT, body, content_type=headers.pop("Content-Type"), headers=headers)


def is_disabled(key: ApiKey) -> bool:
    key.refresh_from_db()
    return key.disabled_at is not None


SHAPES: dict[str, tuple[str, str]] = {
    "JSON": ("application/json", '{"key": "KEY"}'),
    "a form": ("application/x-www-form-urlencoded", "key=KEY&why=it+leaked"),
    "an odd form": ("application/x-www-form-urlencoded", "key=ESCAPED"),
    "text": ("text/plain", "KEY"),
    "text around it": ("text/plain; charset=utf-8", "export API_KEY='KEY'  # écrit\r\n"),
    "nothing said": ("application/octet-stream", "KEY"),
    "a form with parts": (
        "multipart/form-data; boundary=b",
        '--b\r\nContent-Disposition: form-data; name="key"\r\n\r\nKEY\r\n--b--\r\n',
    ),
    "unsigned matches": ("application/json", '[{"token": "KEY", "url": "https://evil.example/"}]'),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_key_is_reported_in_any_wrapping(
    client: Client, bob: User, issue: Issue, shape: str
) -> None:
    key, text = issue(bob)
    kind, body = SHAPES[shape]
    escaped = text.replace("-", "%2D")
    answer = post(client, body.replace("KEY", text).replace("ESCAPED", escaped).encode(), kind)
    assert answer.status_code == 202
    assert is_disabled(key)
    row = AuditEvent.objects.get(action=Action.KEY_REPORTED)
    assert row.target == f"{key}: reported by someone who has it"
    assert row.address == "127.0.0.1"


def test_response_is_the_same_for_any_key(client: Client, bob: User, issue: Issue) -> None:
    _, live = issue(bob)
    _, reported = issue(bob, "b")
    deleted, dead = issue(bob, "c")
    rotated, old = issue(bob, "d")
    deleted.revoke(actor=bob)
    rotate(rotated, GracePeriod.NOW, actor=bob)
    post(client, reported.encode())
    for accept in ({}, HTML):
        seen = set()
        for text in (live, reported, dead, old, keystring.generate().text):
            answer = post(client, text.encode(), **accept)
            page = re.sub(rb'csrf\w*": "[^"]*', b"", answer.content)
            del answer["Expires"]  # Now, by the second.
            seen.add((answer.status_code, page, str(answer.headers)))
        assert len(seen) == 1, seen
        assert next(iter(seen))[0] == 202


def test_form_needs_no_account(client: Client, bob: User, issue: Issue) -> None:
    page = client.get(REPORT, headers=HTML)
    assert page.status_code == 200
    assert '<textarea id="key" name="key"' in page.content.decode()
    key, text = issue(bob)
    form = f"key={text}".encode()
    answer = post(client, form, "application/x-www-form-urlencoded", **HTML)
    assert answer.status_code == 202
    assert "Thank you." in answer.content.decode()
    assert text[14:30] not in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    assert is_disabled(key)


def test_report_is_accepted_over_http_and_the_form_only_over_https(
    client: Client, settings: Settings, bob: User, issue: Issue
) -> None:
    """After a redirect, `curl -L` would ask for the form, and leave the report behind."""
    settings.SECURE_SSL_REDIRECT = True
    key, text = issue(bob)
    page = client.get(f"{REPORT}?from=mail")
    assert page.status_code == 301
    assert page["Location"] == f"https://testserver{REPORT}?from=mail"
    assert client.get(REPORT, secure=True).status_code == 200
    assert client.get(f"{REPORT}/").status_code == 301
    assert not is_disabled(key)
    assert post(client, text.encode()).status_code == 202
    assert is_disabled(key)


@pytest.mark.parametrize("accept", [{}, HTML])
def test_incomplete_key_is_an_error(
    client: Client, bob: User, issue: Issue, accept: dict[str, str]
) -> None:
    """The format is published, so this tells nobody what they could not know."""
    key, text = issue(bob)
    for body in (b"", text[:-1].encode(), f"{text}0".encode(), b"\xff\x00", b"[" * 60_000, b"null"):
        answer = post(client, body, **accept)
        assert answer.status_code == 400
        assert "no complete key" in answer.content.decode()
        cache.clear()
    assert not is_disabled(key)


def test_other_methods_are_refused(client: Client) -> None:
    for method in (client.put, client.patch, client.delete, client.options):
        assert method(REPORT).status_code == 405


def test_key_string_in_the_address_is_not_a_report(client: Client, bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    assert client.get(f"{REPORT}?key={text}").status_code == 200
    assert client.post(f"{REPORT}?key={text}").status_code == 400
    assert not is_disabled(key)


def test_a_body_that_is_too_large_is_not_read(client: Client, bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    body = text.encode().ljust(MAX_BYTES + 1)
    assert post(client, body).status_code == 413
    assert not is_disabled(key)
    assert post(client, body[:MAX_BYTES]).status_code == 202
    assert is_disabled(key)


def test_malformed_content_length_is_rejected(client: Client) -> None:
    for length in ("-1", "many", "9" * 5000, "²"):
        answer = client.post(REPORT, b"x", content_type="text/plain", CONTENT_LENGTH=length)
        assert answer.status_code == 413, length


def test_session_makes_no_difference(bob: User, charlie: User, issue: Issue) -> None:
    """Another team's owner who holds the key ends it as a stranger would, by no other right."""
    key, text = issue(bob)
    client = Client(enforce_csrf_checks=True)
    client.force_login(charlie)
    assert post(client, text.encode()).status_code == 202
    assert is_disabled(key)
    assert AuditEvent.objects.get(action=Action.KEY_REPORTED).actor == ""


def test_reports_are_limited_by_address(client: Client, bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    seen = [post(client, keystring.generate().text.encode()).status_code for _ in range(21)]
    assert seen == [202] * 20 + [429]
    refused = post(client, text.encode())
    assert refused.status_code == 429
    assert refused["Retry-After"] == "60"
    assert post(client, text.encode(), **HTML).status_code == 429
    assert not is_disabled(key)
    elsewhere = client.post(REPORT, text, content_type="text/plain", REMOTE_ADDR="192.0.2.1")
    assert elsewhere.status_code == 202
    assert is_disabled(key)


def test_ipv6_network_counts_as_one_address(client: Client) -> None:
    for number in range(21):
        answer = client.post(
            REPORT, b"x", content_type="text/plain", REMOTE_ADDR=f"2001:db8:1:2::{number:x}"
        )
    assert answer.status_code == 429


def test_limit_applies_before_keys_are_looked_up(
    client: Client, bob: User, issue: Issue, settings: Settings
) -> None:
    settings.ACCOUNT_RATE_LIMITS = {"report_leak": "1/m/ip"}
    texts = [issue(bob)[1], keystring.generate().text, keystring.generate().text[:-1]]
    post(client, b"x")
    assert {post(client, text.encode()).content for text in texts} == {
        json.dumps({"detail": public.TOO_MANY}).encode()
    }


def test_github_reports_several_keys_and_where_they_were(
    client: Client, bob: User, issue: Issue, github: GitHubScanner
) -> None:
    (first, one), (second, two) = issue(bob), issue(bob, "b")
    answer = as_github(client, github, report_body(one, keystring.generate().text, "no-key", two))
    assert answer.status_code == 202
    assert is_disabled(first)
    assert is_disabled(second)
    targets = AuditEvent.objects.filter(action=Action.KEY_REPORTED).values_list("target", flat=True)
    assert targets[0] == f"{first}: reported by GitHub, found at {URL}"
    assert len(targets) == 2
    (message,) = mail.outbox
    assert message.body.count(f"found at\n  {URL}\n") == 2


def test_github_is_not_limited(client: Client, github: GitHubScanner) -> None:
    seen = {
        as_github(client, github, report_body(keystring.generate().text)).status_code
        for _ in range(21)
    }
    assert seen == {202}


def test_key_in_url_is_redacted(
    client: Client, bob: User, issue: Issue, github: GitHubScanner
) -> None:
    _, text = issue(bob)
    as_github(client, github, report_body(text, url=f"https://github.com/search?q={text}"))
    row = AuditEvent.objects.get(action=Action.KEY_REPORTED)
    for shown in (row.target, str(mail.outbox[0].message())):
        assert "github.com/search" in shown
        assert text[14:30] not in shown


def test_url_with_control_characters_still_disables_the_key(
    client: Client, bob: User, issue: Issue, github: GitHubScanner
) -> None:
    key, text = issue(bob)
    url = "https://github.com/\x00a\r\nb\u202e"
    assert as_github(client, github, report_body(text, url=url)).status_code == 202
    assert is_disabled(key)
    row = AuditEvent.objects.get(action=Action.KEY_REPORTED)
    assert row.target.endswith("found at https://github.com/ab")


def test_long_url_is_truncated(
    client: Client, bob: User, issue: Issue, github: GitHubScanner
) -> None:
    _, text = issue(bob)
    assert as_github(client, github, report_body(text, url="x" * 50_000)).status_code == 202
    assert len(AuditEvent.objects.get(action=Action.KEY_REPORTED).target) == 200


def forgeries(github: GitHubScanner, body: bytes) -> dict[str, dict[str, str]]:
    """Headers that claim to be GitHub's, each wrong in one way."""
    good = github.headers(body)
    identity, signature = "Github-Public-Key-Identifier", "Github-Public-Key-Signature"
    return {
        "another's key": GitHubScanner().headers(body),
        "another body": github.headers(body + b" "),
        "a key that is not there": github.headers(body, identity="f" * 64),
        "no identifier": {signature: good[signature]},
        "no signature": {identity: KEY_IDENTIFIER},
        "an empty signature": good | {signature: ""},
        "no Base64": good | {signature: "…" * 20},
        "a cut one": good | {signature: good[signature][:-8]},
        "zeros": good | {signature: "MAYCAQACAQA="},
        "an endless one": good | {signature: good[signature] * 500},
    }


@pytest.mark.parametrize("how", forgeries(GitHubScanner(), b""))
def test_forged_github_report_is_rejected(
    client: Client,
    bob: User,
    issue: Issue,
    github: GitHubScanner,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key, text = issue(bob)
    answers = set()
    for body in (report_body(text), report_body(keystring.generate().text)):
        headers = forgeries(github, body)[how]
        headers.pop("Content-Type", None)
        answers.add(post(client, body, "application/json", **headers).content)
        assert not is_disabled(key)
    assert answers == {json.dumps({"detail": public.FORGED}).encode()}
    assert "with GitHub's headers" in caplog.text
    assert text[14:30] not in caplog.text
    assert not AuditEvent.objects.filter(action=Action.KEY_REPORTED).exists()


def test_github_report_is_rejected_without_public_keys(
    client: Client,
    bob: User,
    issue: Issue,
    github: GitHubScanner,
    settings: Settings,
    tmp_path: Path,
) -> None:
    key, text = issue(bob)
    for file in ("", str(tmp_path / "nowhere.json")):
        settings.GITHUB_KEYS_FILE = file
        assert as_github(client, github, report_body(text)).status_code == 403
    assert not is_disabled(key)


def test_forgeries_are_limited_by_address(client: Client, github: GitHubScanner) -> None:
    body = report_body("x")
    headers = GitHubScanner().headers(body)
    headers.pop("Content-Type")
    seen = [post(client, body, "application/json", **headers).status_code for _ in range(21)]
    assert seen == [403] * 20 + [429]


def test_repeated_github_report_does_nothing(
    client: Client, bob: User, issue: Issue, github: GitHubScanner
) -> None:
    key, text = issue(bob)
    body = report_body(text)
    assert as_github(client, github, body).status_code == 202
    rotate(key, GracePeriod.NOW, actor=bob)
    assert as_github(client, github, body).status_code == 202
    assert not is_disabled(key)
    assert AuditEvent.objects.filter(action=Action.KEY_REPORTED).count() == 1


def test_signed_report_in_unknown_format_is_rejected(client: Client, github: GitHubScanner) -> None:
    for body in (
        b"",
        b"{}",
        b"[1]",
        b'[{"type": "x"}]',
        b'[{"token": 7}]',
        b'[{"token": "\xff"}]',
        b'[{"token": "x", "url": "\\ud800"}]',
        b"\xff",
        b"[" * 60_000,
        b'[{"token": "x", "more": ' + b"[" * 60_000,
        b'[{"token": "x", "more": ' + b'{"a":' * 10_000,
    ):
        answer = as_github(client, github, body)
        with case(body[:40]):
            assert answer.status_code == 400
            assert "its format is unknown" in answer.content.decode()


def test_new_file_of_github_keys_needs_no_restart(
    client: Client, bob: User, issue: Issue, github: GitHubScanner, tmp_path: Path
) -> None:
    key, text = issue(bob)
    newer = GitHubScanner()
    assert as_github(client, newer, report_body(text)).status_code == 403
    newer.publish(tmp_path)
    assert as_github(client, newer, report_body(text)).status_code == 202
    assert is_disabled(key)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_crash_does_not_log_the_key(
    bob: User,
    issue: Issue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    reports: list[str] = []
    _, text = issue(bob)
    part = text[14:30]

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("out of luck")

    def keep(sender: object, request: HttpRequest, **_: object) -> None:
        reporter = ExceptionReporter(request, *sys.exc_info())
        reports.extend([reporter.get_traceback_text(), reporter.get_traceback_html()])

    from django.core.signals import got_request_exception

    monkeypatch.setattr(handling, "lock_key", crash)
    got_request_exception.connect(keep)
    try:
        client = Client(raise_request_exception=False)
        answer = post(client, f"key={text}".encode(), kind)
    finally:
        got_request_exception.disconnect(keep)
    assert answer.status_code == 500
    assert len(reports) == 2
    assert "out of luck" in reports[0]
    assert "out of luck" in caplog.text
    for shown in (*reports, caplog.text, answer.content.decode()):
        assert part not in shown

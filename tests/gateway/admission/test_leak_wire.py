"""Leak reports over the wire: the key is refused, mail is sent, and no trace of the key is left."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from keyportal.audit.models import Action, AuditEvent
from keyportal.catalog.models import ServedModel
from keyportal.http.buffering import FORM_SECONDS
from keyportal.http.constant_time import INTERVAL_SECONDS
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.leaks.reports import MAX_BYTES, REPORT_PATH
from keyportal.teams.models import Team, User
from tests.gateway.test_canary import assert_nowhere, every_value, without_audit
from tests.support.github import URL, GitHubScanner, report_body
from tests.support.mail_server import MailServer
from tests.support.server import Reply, Server, head, wait_until

pytestmark = pytest.mark.gateway
OwnServer = Callable[..., Server]
Issue = Callable[..., tuple[ApiKey, str]]
TEXT = {"Content-Type": "text/plain"}
RESET = "/accounts/password/reset/"


def post(server: Server, body: bytes, **headers: str) -> Reply:
    return server.request("POST", REPORT_PATH, body=body, headers=TEXT | headers)


@pytest.mark.parametrize("debug", ["False", pytest.param("True", marks=pytest.mark.any_database)])
def test_key_that_github_reports_is_disabled_at_once_and_leaves_no_trace(
    own_server: OwnServer,
    alice: User,
    bob: User,
    team: Team,
    model: ServedModel,
    issue: Issue,
    mail_server: MailServer,
    tmp_path: Path,
    debug: str,
) -> None:
    github, keys = GitHubScanner(), [issue(bob), issue(alice, "hers"), issue(bob, "found")]
    texts = [text for _, text in keys]
    server = own_server(
        workers=2,
        KEYPORTAL_GITHUB_KEYS_FILE=github.publish(tmp_path),
        KEYPORTAL_LOG_LEVEL="DEBUG",
        EMAIL_URL=mail_server.url,
        DEBUG=debug,
    )
    assert {server.chat(text, model.name).status for text in texts} == {200}

    body = report_body(*texts[:2], url=f"{URL}?q={texts[0]}")
    forged = server.request("POST", REPORT_PATH, body=body, headers=GitHubScanner().headers(body))
    assert forged.status == 403
    assert {server.chat(text, model.name).status for text in texts} == {200}
    accepted = server.request("POST", REPORT_PATH, body=body, headers=github.headers(body))
    # On new connections, so on either worker.
    assert {server.chat(text, model.name).status for text in texts[:2] * 4} == {401}
    again = server.request("POST", REPORT_PATH, body=body, headers=github.headers(body))
    unknown = post(server, keystring.generate().text.encode())
    stranger = post(server, texts[2].encode())
    assert server.chat(texts[2], model.name).status == 401
    assert [reply.status for reply in (accepted, again, unknown, stranger)] == [202] * 4
    assert len({reply.body for reply in (accepted, again, unknown, stranger)}) == 1
    # For GitHub's report one to bob and one to alice, and the same for the stranger's.
    mail_server.wait_for(4)
    assert sorted(mail_server.recipients) == ["alice@example.com"] * 2 + ["bob@example.com"] * 2
    assert AuditEvent.objects.filter(action=Action.KEY_REPORTED).count() == 3

    with without_audit():  # An internal error: 500, with a traceback in the log.
        ApiKey.objects.update(disabled_by="", disabled_at=None, reported_at=None)
        assert post(server, texts[0].encode()).status == 500
    assert server.chat(texts[0], model.name).status == 200, "Half of it was done."
    post(server, b"key=" + texts[0].encode(), **{"Content-Type": "text/html; charset=nothing"})
    server.request("POST", f"{REPORT_PATH}?{texts[0]}", body=texts[0].encode(), headers=TEXT)
    server.request("POST", f"{REPORT_PATH}/{texts[0]}", body=texts[0].encode(), headers=TEXT)
    server.request("PUT", REPORT_PATH, body=texts[0].encode(), headers=TEXT)
    assert server.stop() == 0
    assert "Traceback" in server.log
    assert "with GitHub's headers" in server.log
    for text in texts:
        assert_nowhere(text, "the log", server.log)
        assert_nowhere(text, "a letter", mail_server.text)
        assert_nowhere(text, "a response", str((accepted, again, unknown, stranger, forged)))
        for where, value in every_value():
            assert_nowhere(text, where, value)


@pytest.mark.any_database
def test_report_that_is_too_large_is_refused_before_it_arrives(live: Server) -> None:
    with live.connect() as connection:
        connection.send(head(f"POST {REPORT_PATH}", None, MAX_BYTES + 1))
        assert connection.reply().status == 413
    with live.connect() as connection:
        connection.send(head(f"POST {REPORT_PATH}", None, None, "Transfer-Encoding: chunked"))
        assert connection.reply().status == 413


def test_slow_reports_delay_no_page(live: Server) -> None:
    """Forty clients send one byte each, to two workers with sixteen slots. No page is delayed."""
    slow = [live.connect() for _ in range(40)]
    try:
        for connection in slow:
            connection.send(head(f"POST {REPORT_PATH}", None, 100) + b"s")
        for path in ("/accounts/login/", REPORT_PATH):
            assert live.request("GET", path, timeout=FORM_SECONDS - 2).status == 200
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.any_database
def test_response_time_does_not_show_whether_an_account_exists(
    own_server: OwnServer, bob: User, mail_server: MailServer
) -> None:
    """For an account that exists, a mail is written. The mail server is silent."""
    mail_server.accepting.clear()
    server = own_server(EMAIL_URL=mail_server.url)
    page = server.request("GET", RESET)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.body.decode())
    assert token
    cookie = page.headers["set-cookie"].split(";")[0]
    headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
    spans: dict[str, list[float]] = {"bob": [], "nobody": []}
    for _ in range(4):
        for name, taken in spans.items():
            form = {"csrfmiddlewaretoken": token[1], "email": f"{name}@example.com"}
            began = time.monotonic()
            body = urlencode(form).encode()
            assert server.request("POST", RESET, body=body, headers=headers).status == 302
            taken.append(time.monotonic() - began)
    wait_until(lambda: mail_server.connections)
    assert not mail_server.received
    assert_nothing_is_learnt(spans)
    mail_server.accepting.set()
    mail_server.wait_for(4)


def assert_nothing_is_learnt(spans: dict[Any, list[float]]) -> None:
    """Each response waits for the end of an interval, which tests/http/test_constant_time.py shows
    to be exact, and no response waits for the mail server.

    How long a busy machine takes says nothing, so the best of each kind counts.
    """
    for taken in spans.values():
        assert 0.8 * INTERVAL_SECONDS < min(taken) < 15


@pytest.mark.any_database
def test_response_time_does_not_show_whether_a_key_exists(
    own_server: OwnServer, alice: User, bob: User, team: Team, issue: Issue, mail_server: MailServer
) -> None:
    mail_server.accepting.clear()
    Team.objects.update(max_keys=100)
    server = own_server(EMAIL_URL=mail_server.url)
    post(server, b"a first one, for all that is done once")
    spans: dict[bool, list[float]] = {True: [], False: []}
    for number in range(4):
        texts = {True: issue(bob, f"key {number}")[1], False: keystring.generate().text}
        for is_live, text in texts.items():
            began = time.monotonic()
            assert post(server, text.encode()).status == 202
            spans[is_live].append(time.monotonic() - began)
    wait_until(lambda: mail_server.connections)
    assert not mail_server.received
    assert ApiKey.objects.filter(disabled_at__isnull=True).count() == 0
    assert_nothing_is_learnt(spans)
    mail_server.accepting.set()
    mail_server.wait_for(2 * 4)

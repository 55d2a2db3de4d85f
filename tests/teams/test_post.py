"""Mail behind the answer: tried again, bounded in number, and no burden to whoever stops."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from django.conf import settings as django_settings
from django.core.mail import EmailMessage

from keyportal.keys.models import ApiKey
from keyportal.teams import post
from keyportal.teams.models import User
from keyportal.teams.post import PostOffice
from tests.post import Sink
from tests.serving import Server, wait_until

Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def office(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostOffice]:
    """One that tries again almost at once; nothing of it is left for the next test."""
    monkeypatch.setattr(post, "PAUSES", (0.05, 0.05))
    office = PostOffice()
    yield office
    sink.may_answer.set()
    assert office.finish(30)


def letter(name: str, to: str = "bob@example.com") -> EmailMessage:
    return EmailMessage(f"The API key {name} leaked", "Rotate it.", to=[to])


def subjects(sink: Sink) -> list[str]:
    return [str(one["Subject"]).split()[3] for one in sink.received]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """By us; the mail server of the tests says more, in this process."""
    return [one.getMessage() for one in caplog.records if one.name == post.__name__]


def test_letters_leave_in_their_order(sink: Sink, office: PostOffice) -> None:
    for name in "abc":
        office.take(letter(name))
    assert office.finish(30)
    assert subjects(sink) == ["a", "b", "c"]


def test_what_is_put_off_is_tried_again_and_keeps_none_back(
    sink: Sink, office: PostOffice, caplog: pytest.LogCaptureFixture
) -> None:
    sink.put_off = 1
    office.take(letter("a"))
    office.take(letter("b"))
    sink.wait_for(2)
    assert sorted(subjects(sink)) == ["a", "b"]
    assert told(caplog) == ["A mail is tried again later: SMTPRecipientsRefused"]


def test_it_is_tried_so_often_and_no_more(
    sink: Sink, office: PostOffice, caplog: pytest.LogCaptureFixture
) -> None:
    sink.put_off = 10
    office.take(letter("a"))
    wait_until(lambda: "A mail could not be sent" in caplog.text)
    assert sink.put_off == 10 - 3
    assert office.finish(30)
    assert not office._waiting
    assert not sink.received


@pytest.mark.parametrize("to", ["eve@example.com", "bob@example.com\nBcc: eve@example.com"])
def test_what_is_refused_for_good_is_not_tried_again(
    sink: Sink, office: PostOffice, caplog: pytest.LogCaptureFixture, to: str
) -> None:
    sink.refused.add("eve@example.com")
    office.take(letter("a", to))
    assert office.finish(30)
    assert not office._waiting
    assert told(caplog) == ["A mail could not be sent; EMAIL_URL says where to."]


def test_only_so_many_wait_and_the_log_says_which_was_dropped(
    sink: Sink,
    office: PostOffice,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(post, "MOST", 2)
    sink.may_answer.clear()
    office.take(letter("a"))
    wait_until(lambda: not office._waiting)  # It is being sent.
    for name in "bcd":
        office.take(letter(name))
    sink.may_answer.set()
    assert office.finish(30)
    assert subjects(sink) == ["a", "b", "c"]
    assert told(caplog) == ["2 mails wait; one is dropped: The API key d leaked"]


ENDING = """
import django; django.setup()
from django.core.mail import EmailMessage
from keyportal.keys.models import ApiKey
from keyportal.teams import post
from keyportal.teams.models import User
post.STOP_SECONDS = {seconds}
post.send_later(EmailMessage("A", "b", to=["bob@example.com"]) for _ in range(3))
"""


def end(sink: Sink, seconds: float) -> tuple[str, float]:
    """What a process that has three letters to send logs when it ends, and how long it took."""
    code = ENDING.format(seconds=seconds)
    environment = {"DJANGO_SETTINGS_MODULE": "keyportal.settings", "EMAIL_URL": sink.url}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=django_settings.BASE_DIR,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stderr, time.monotonic() - began


def test_a_process_that_ends_sends_what_waits(sink: Sink) -> None:
    log, _ = end(sink, 30)
    assert len(sink.received) == 3
    assert "not sent" not in log


def test_a_server_that_stops_sends_what_waits(
    own_server: Callable[..., Server], sink: Sink, bob: User, issue: Issue
) -> None:
    server = own_server(EMAIL_URL=sink.url)
    sink.may_answer.clear()
    _, text = issue(bob)
    assert server.request("POST", "/leaks/report", body=text.encode()).status == 202
    wait_until(lambda: sink.callers)
    server.process.terminate()
    time.sleep(0.5)  # By now it is on its way out.
    sink.may_answer.set()
    assert server.stop() == 0
    assert sink.recipients == ["bob@example.com"]


def test_a_mail_server_that_does_not_answer_holds_up_no_end(sink: Sink) -> None:
    sink.may_answer.clear()
    log, seconds = end(sink, 0.5)
    assert seconds < django_settings.EMAIL_TIMEOUT
    assert "Mails that were not sent before the process ended: 3." in log

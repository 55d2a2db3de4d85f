"""A new e-mail address is confirmed by mail."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth import get_user
from django.core import mail, signing
from django.test import Client
from pytest_django import Settings

from keyportal.audit.models import AuditEvent
from keyportal.profile import email_change
from keyportal.teams.models import User

pytestmark = [pytest.mark.any_database, pytest.mark.django_db]

EMAIL = "/profile/email/"


def request_link(client: Client, email: str = "Bob@New.example") -> str:
    """The path of the link in the mail; empty if there is none."""
    mail.outbox.clear()
    assert client.post(EMAIL, {"email": email})["Location"] == "/profile/"
    found = (
        re.search(r"http://127.0.0.1:\d+(/\S+)", str(mail.outbox[0].body)) if mail.outbox else None
    )
    return found[1] if found else ""


@pytest.fixture
def signed_in(client: Client, bob: User) -> Client:
    client.force_login(bob)
    return client


def email_of(user: User) -> str:
    return User.objects.get(pk=user.pk).email


def test_the_link_changes_the_address_and_the_old_one_is_told(signed_in: Client, bob: User) -> None:
    link = request_link(signed_in)
    assert mail.outbox[0].to == ["bob@new.example"]
    assert email_of(bob) == "bob@example.com"
    assert "bob@new.example" in signed_in.get(link).content.decode()
    assert email_of(bob) == "bob@example.com"
    assert signed_in.post(link)["Location"] == "/profile/"
    assert email_of(bob) == "bob@new.example"
    assert mail.outbox[-1].to == ["bob@example.com"]
    assert "was changed" in mail.outbox[-1].subject
    assert "bob@new.example" not in mail.outbox[-1].body
    event = AuditEvent.objects.get(target__startswith="User bob: Email")
    assert event.actor == "bob"


def test_a_link_works_once(signed_in: Client, bob: User) -> None:
    first, second = request_link(signed_in, "one@new.example"), request_link(signed_in)
    signed_in.post(first)
    for link in (first, second):
        assert signed_in.post(link).status_code == 404
    assert email_of(bob) == "one@new.example"


def test_a_link_of_another_person_changes_nothing(signed_in: Client, alice: User) -> None:
    link = request_link(signed_in)
    other = Client()
    assert other.post(link)["Location"].startswith("/accounts/login/")
    other.force_login(alice)
    assert other.get(link).status_code == other.post(link).status_code == 404
    assert email_of(alice) == "alice@example.com"


def test_an_old_or_forged_link_changes_nothing(
    signed_in: Client, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = request_link(signed_in)
    monkeypatch.setattr(email_change, "MAX_AGE_SECONDS", timedelta(0))
    assert signed_in.post(link).status_code == 404
    forged = signing.dumps([bob.pk, bob.email, "eve@example.com"], salt="another purpose")
    assert signed_in.post(f"{EMAIL}{forged}/").status_code == 404
    assert email_of(bob) == "bob@example.com"


def test_nobody_learns_whose_address_exists(signed_in: Client, alice: User, bob: User) -> None:
    """The page says the same, and no mail is sent."""
    assert request_link(signed_in, "ALICE@example.com") == ""
    page = signed_in.get("/profile/").content.decode()
    assert "We sent a link to the new address." in page


def test_an_address_that_was_taken_meanwhile_is_refused(
    signed_in: Client, alice: User, bob: User
) -> None:
    link = request_link(signed_in)
    User.objects.filter(pk=alice.pk).update(email="bob@new.example")
    assert signed_in.post(link).status_code != 302
    assert email_of(bob) == "bob@example.com"


def test_it_asks_again(signed_in: Client, bob: User) -> None:
    link = request_link(signed_in)
    session = signed_in.session
    session["began_at"] -= 3600
    session.save()
    for path in (EMAIL, link):
        answer = signed_in.post(path, {"email": "bob@new.example"})
        assert answer["Location"].startswith("/accounts/reauthenticate/"), path
    assert get_user(signed_in).email == "bob@example.com"  # type: ignore[union-attr]  # has a session


def test_mails_are_limited(signed_in: Client) -> None:
    for number in range(5):
        assert request_link(signed_in, f"bob{number}@new.example")
    assert signed_in.post(EMAIL, {"email": "bob@new.example"}).status_code == 429


def test_without_a_public_address_no_link_is_mailed_beyond_this_machine(
    signed_in: Client, settings: Settings
) -> None:
    settings.PUBLIC_URL = ""
    answer = signed_in.post(EMAIL, {"email": "bob@new.example"}, REMOTE_ADDR="192.0.2.1")
    assert "Ask an operator" in answer.content.decode()
    assert not mail.outbox


@pytest.mark.parametrize("email", ["", "bob", "bob@new.example\nBcc: eve@example.com"])
def test_what_is_no_address_is_told(signed_in: Client, email: str) -> None:
    assert signed_in.post(EMAIL, {"email": email}).status_code == 422

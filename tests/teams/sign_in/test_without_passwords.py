"""Passwords switched off, and the links with which operators get in from the shell."""

import re
import time

import pytest
from django.core.management import CommandError
from django.test import Client
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.teams.models import User
from tests.conftest import PASSWORD
from tests.support.cases import own_case
from tests.support.commands import run

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]


@pytest.fixture
def without_passwords(settings: Settings) -> None:
    settings.PASSWORD_SIGN_IN = False


def link_for(user: User) -> str:
    (url,), _ = run("signinlink", user.username)
    assert url.startswith("http://127.0.0.1:8000/accounts/link/")
    return url.removeprefix("http://127.0.0.1:8000")


def is_signed_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


@pytest.mark.usefixtures("without_passwords")
def test_no_password_signs_in(client: Client, bob: User) -> None:
    page = client.get("/accounts/login/").content.decode()
    assert 'type="password"' not in page
    assert "Forgot" not in page
    answer = client.post("/accounts/login/", {"login": "bob", "password": PASSWORD})
    assert answer.status_code == 403
    assert not is_signed_in(client)


@pytest.mark.usefixtures("without_passwords")
def test_no_page_is_about_passwords(client: Client, bob: User) -> None:
    for page in ("change/", "set/", "reset/", "reset/done/", "reset/key/1-a-b/"):
        with own_case(page):
            client.force_login(bob)
            assert client.get(f"/accounts/password/{page}").status_code == 404
            assert "Change password" not in client.get("/", follow=True).content.decode()


@pytest.mark.usefixtures("without_passwords")
def test_initial_password_need_not_be_changed(client: Client, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(must_change_password=True)
    client.force_login(bob)
    assert client.get("/", follow=True).status_code == 200


@pytest.mark.usefixtures("without_passwords")
def test_nobody_confirms_with_a_password(client: Client, bob: User) -> None:
    client.force_login(bob)
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    session = client.session
    assert not session.get("account_authentication_methods")


@pytest.mark.usefixtures("without_passwords")
def test_link_signs_in_once(client: Client, bob: User) -> None:
    link = link_for(bob)
    for _ in range(2):  # Programs that look at links don't use it up.
        assert "signs you in as <strong>bob</strong>" in client.get(link).content.decode()
    assert not is_signed_in(client)
    answer = client.post(link)
    assert (answer.status_code, answer.url) == (302, "/")  # type: ignore[attr-defined]
    assert is_signed_in(client)
    event = AuditEvent.objects.get(action=Action.SIGNED_IN)
    assert (event.actor, event.address) == ("bob", "127.0.0.1")
    other = Client()
    assert other.post(link).status_code == other.get(link).status_code == 404
    assert not is_signed_in(other)


def test_link_ends_with_another_sign_in_or_a_new_password(client: Client, bob: User) -> None:
    links = [link_for(bob)]
    client.force_login(bob)
    bob.refresh_from_db()
    links.append(link_for(bob))
    bob.set_password("staple battery horse correct")
    bob.save(update_fields=["password"])
    for link in links:
        assert Client().post(link).status_code == 404


def test_link_ends_after_ten_minutes(
    client: Client, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = link_for(bob)
    later = time.time() + 601
    monkeypatch.setattr("django.core.signing.time.time", lambda: later)
    assert client.post(link).status_code == 404


def test_forged_links_open_nothing(client: Client, bob: User, alice: User) -> None:
    link = link_for(bob)
    for forged in (
        link.replace(f"/{bob.pk}%20", f"/{alice.pk}%20"),
        re.sub(r".{4}/$", "AAAA/", link),
        "/accounts/link/:/",
        "/accounts/link/%00/",
        f"/accounts/link/{bob.pk}/",
    ):
        assert forged != link
        assert client.post(forged).status_code == 404, forged


def test_link_needs_the_token_of_its_form(bob: User) -> None:
    """Attack: another site signs its visitor in to an account that it got a link to."""
    assert Client(enforce_csrf_checks=True).post(link_for(bob)).status_code == 403


def test_inactive_user_gets_no_link(client: Client, bob: User) -> None:
    link = link_for(bob)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert client.post(link).status_code == 404
    with pytest.raises(CommandError, match="bob is inactive"):
        run("signinlink", "bob")

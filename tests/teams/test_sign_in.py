"""Signing in and out, and passwords: changed, forgotten, guessed."""

import re
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.core import mail
from django.test import Client
from django.urls import NoReverseMatch, reverse

from keyportal.teams import accounts as adapter
from keyportal.teams.models import User
from tests.conftest import PASSWORD

pytestmark = pytest.mark.any_database

NEW = "staple battery horse correct"
WRONG = "The user name or the password is wrong."
HOME = {"login": "bob", "password": PASSWORD}


def post(client: Client, login: str, password: str = PASSWORD, **more: Any) -> int:
    """The status of one attempt: 302 is in, 200 is the form again, 429 is one too many."""
    answer = client.post("/accounts/login/", {"login": login, "password": password}, **more)
    return answer.status_code


def is_signed_in(client: Client) -> bool:
    return client.get("/accounts/password/change/").status_code == 200


@pytest.mark.parametrize("login", ["bob", "BOB", "bob@example.com", "Bob@Example.COM", " bob "])
def test_people_sign_in_by_name_or_address(client: Client, bob: User, login: str) -> None:
    answer = client.post("/accounts/login/", {"login": login, "password": PASSWORD})
    assert (answer.status_code, answer.url) == (302, "/")  # type: ignore[attr-defined]
    assert is_signed_in(client)


def test_the_sign_in_page_is_ours(client: Client, db: None) -> None:
    page = client.get("/accounts/login/").content.decode()
    assert 'name="login"' in page
    assert 'name="password"' in page
    assert "Keyportal" in page
    assert "sign up" not in page.lower()


@pytest.mark.parametrize(
    ("login", "password"),
    [
        ("bob", "xx-guess"),
        ("bob@example.com", "xx-guess"),
        ("nobody", PASSWORD),
        ("no@where", PASSWORD),
        ("n" * 60_000, PASSWORD),
    ],
)
def test_every_failure_reads_the_same(client: Client, bob: User, login: str, password: str) -> None:
    answer = client.post("/accounts/login/", {"login": login, "password": password})
    page = answer.content.decode()
    assert answer.status_code == 200
    assert page.count(WRONG) == 1
    assert password not in page
    assert not is_signed_in(client)


def test_missing_fields_are_told(client: Client, db: None) -> None:
    assert client.post("/accounts/login/", {}).content.decode().count("field is required") == 2


@pytest.mark.parametrize("login", ["bo\x00b", "b" * 5000, "b" * 60_000, "%", "' OR 1=1 --"])
def test_odd_names_fail_quietly(client: Client, bob: User, login: str) -> None:
    assert post(client, login) == 200


def test_after_sign_in_people_are_where_they_wanted_to_go(client: Client, bob: User) -> None:
    asked = client.get("/accounts/password/change/")
    assert asked.url == "/accounts/login/?next=/accounts/password/change/"  # type: ignore[attr-defined]
    answer = client.post(asked.url, HOME)  # type: ignore[attr-defined]
    assert answer.url == "/accounts/password/change/"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "http:evil.example",
        "http://localhost/",
        "https://testserver:8443/",
        "/\\evil.example/",
        "javascript:alert(1)",
        "\thttps://evil.example",
    ],
)
def test_next_never_leads_off_site(client: Client, bob: User, target: str) -> None:
    for data, query in (({"next": target}, ""), ({}, "?next=" + target)):
        answer = Client().post("/accounts/login/" + query, HOME | data)
        assert (answer.status_code, answer.url) == (302, "/")  # type: ignore[attr-defined]
    answer = client.post("/accounts/logout/", {"next": target})
    assert answer.url.startswith("/accounts/login/")  # type: ignore[attr-defined]


def test_signing_out_needs_a_post(client: Client, bob: User) -> None:
    client.force_login(bob)
    assert b"Sign out?" in client.get("/accounts/logout/").content
    assert is_signed_in(client)
    answer = client.post("/accounts/logout/", follow=True)
    assert "You are signed out." in answer.content.decode()
    assert not is_signed_in(client)


def test_there_is_no_sign_up(client: Client, db: None) -> None:
    with pytest.raises(NoReverseMatch):
        reverse("account_signup")
    for path in ("/accounts/signup/", "/accounts/email/", "/accounts/"):
        assert client.get(path).status_code in {302, 404}
    assert adapter.AccountAdapter().is_open_for_signup(None) is False  # type: ignore[arg-type]


def test_an_inactive_user_is_told_so_after_the_right_password_only(
    client: Client, bob: User
) -> None:
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert post(client, "bob", "wrong") == 200
    answer = client.post("/accounts/login/", HOME, follow=True)
    assert "Account switched off" in answer.content.decode()
    assert not is_signed_in(client)


def test_deactivating_a_user_ends_their_sessions_at_once(client: Client, bob: User) -> None:
    assert post(client, "bob") == 302
    assert is_signed_in(client)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert not is_signed_in(client)


def test_the_session_cookie_is_closed_to_scripts_and_other_sites(client: Client, bob: User) -> None:
    post(client, "bob")
    cookie = client.cookies["keyportal_session"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert not cookie["expires"]  # It ends with the browser, unless asked to stay.
    answer = Client().post("/accounts/login/", HOME | {"remember": "on"})
    assert answer.cookies["keyportal_session"]["max-age"]


def test_a_sign_in_makes_a_new_session(client: Client, bob: User) -> None:
    client.post("/accounts/login/", HOME)
    first = client.cookies["keyportal_session"].value
    client.post("/accounts/logout/")
    client.post("/accounts/login/", HOME)
    assert client.cookies["keyportal_session"].value != first
    assert not Session.objects.filter(session_key=first).exists()


# Guessing.


def test_an_account_is_closed_to_guesses_after_five(client: Client, bob: User) -> None:
    for _ in range(5):
        assert post(client, "bob", "wrong") == 200
    answer = client.post("/accounts/login/", HOME)
    assert "Too many failed attempts" in answer.content.decode()
    assert not is_signed_in(client)


def test_name_and_address_of_one_user_share_their_guesses(client: Client, bob: User) -> None:
    for login in ("bob", "bob@example.com", "BOB", "Bob@Example.com", " bob "):
        assert post(client, login, "wrong") == 200
    for login in ("bob", "bob@example.com"):
        answer = client.post("/accounts/login/", {"login": login, "password": PASSWORD})
        assert "Too many failed attempts" in answer.content.decode()


def test_a_new_password_opens_an_account_that_guesses_have_closed(
    client: Client, bob: User
) -> None:
    for _ in range(5):
        post(client, "bob", "wrong")
    ask_reset(client, "bob@example.com")
    (link,) = re.findall(r"http://127\.0\.0\.1:8000(/\S+)", str(mail.outbox[0].body))
    form = client.get(link, follow=True)
    client.post(form.redirect_chain[-1][0], {"password1": NEW, "password2": NEW})
    assert post(Client(), "bob", NEW, REMOTE_ADDR="192.0.2.77") == 302


def test_an_address_that_guesses_many_names_is_stopped(client: Client, bob: User) -> None:
    for number in range(10):
        assert post(client, f"name{number}", "wrong") == 200
    answer = client.post("/accounts/login/", HOME)
    assert "Too many failed attempts" in answer.content.decode()
    assert post(client, "bob", REMOTE_ADDR="192.0.2.77") == 302


def test_too_many_posts_are_answered_429_in_our_look(client: Client, db: None) -> None:
    seen = {post(client, "") for _ in range(30)}
    answer = client.post("/accounts/login/", HOME)
    assert seen == {200}
    assert answer.status_code == 429
    assert "Too many attempts" in answer.content.decode()
    assert "Keyportal" in answer.content.decode()


def test_a_forged_forwarding_header_escapes_no_limit(client: Client, bob: User) -> None:
    for number in range(10):
        forged = f"203.0.113.{number}"
        post(client, f"name{number}", "wrong", HTTP_X_FORWARDED_FOR=forged)
    answer = client.post("/accounts/login/", HOME, HTTP_X_FORWARDED_FOR="203.0.113.99")
    assert "Too many failed attempts" in answer.content.decode()


def test_successes_are_no_failures(client: Client, bob: User) -> None:
    for _ in range(12):
        assert post(client, "bob") == 302
        client.post("/accounts/logout/")


# Changing and forgetting.


def change(client: Client, old: str = PASSWORD, new: str = NEW) -> str:
    data = {"oldpassword": old, "password1": new, "password2": new}
    return client.post("/accounts/password/change/", data, follow=True).content.decode()


def test_a_changed_password_keeps_this_session_and_ends_the_others(
    client: Client, bob: User
) -> None:
    elsewhere = Client()
    post(client, "bob")
    post(elsewhere, "bob")
    assert "Your password is changed." in change(client)
    assert is_signed_in(client)
    assert not is_signed_in(elsewhere)
    assert post(Client(), "bob") == 200
    assert post(Client(), "bob", NEW) == 302


def test_changing_needs_the_current_password_and_a_good_new_one(client: Client, bob: User) -> None:
    client.force_login(bob)
    assert "This is not your current password." in change(client, old="wrong")
    assert "too common" in change(client, new="password")
    assert "too similar" in change(client, new="bob@example")
    assert post(Client(), "bob") == 302


def test_the_current_password_cannot_be_guessed_in_a_taken_session(
    client: Client, bob: User
) -> None:
    client.force_login(bob)
    for _ in range(5):
        change(client, old="wrong")
    assert "Too many attempts" in change(client)


def ask_reset(client: Client, email: str) -> tuple[int, str, str]:
    answer = client.post("/accounts/password/reset/", {"email": email}, follow=True)
    page = re.sub(r'csrf\w*"[^>]*|x-csrftoken[^>]*', "", answer.content.decode())
    return answer.status_code, answer.redirect_chain[-1][0], page


def test_a_forgotten_password_is_set_anew_by_mail(client: Client, bob: User) -> None:
    ask_reset(client, "Bob@Example.com")
    (message,) = mail.outbox
    assert message.to == ["bob@example.com"]
    assert message.subject == "[Keyportal] Reset your password"
    (link,) = re.findall(r"http://127\.0\.0\.1:8000(/\S+)", str(message.body))
    form = client.get(link, follow=True)
    assert link not in form.content.decode()
    answer = client.post(
        form.redirect_chain[-1][0], {"password1": NEW, "password2": NEW}, follow=True
    )
    assert "New password set" in answer.content.decode()
    assert post(Client(), "bob", NEW) == 302
    assert "no longer valid" in client.get(link, follow=True).content.decode()


def test_a_stranger_cannot_tell_whose_addresses_exist(client: Client, bob: User) -> None:
    assert ask_reset(client, "bob@example.com") == ask_reset(Client(), "nobody@example.com")
    assert [message.to for message in mail.outbox] == [["bob@example.com"]]


def test_an_inactive_user_gets_no_mail(client: Client, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_active=False)
    ask_reset(client, "bob@example.com")
    assert not mail.outbox


def test_a_link_of_nobodys_is_refused(client: Client, db: None) -> None:
    page = client.get("/accounts/password/reset/key/zz-abc-def/", follow=True)
    assert "no longer valid" in page.content.decode()


def test_a_former_address_opens_nothing(client: Client, bob: User) -> None:
    # allauth writes the address down when it is first used.
    ask_reset(client, "bob@example.com")
    (message,) = mail.outbox
    bob.email = "robert@example.com"
    bob.save(update_fields=["email"])
    mail.outbox.clear()
    ask_reset(Client(), "bob@example.com")
    assert not mail.outbox
    assert post(Client(), "bob@example.com") == 200
    assert post(Client(), "robert@example.com") == 302
    (link,) = re.findall(r"http://127\.0\.0\.1:8000(/\S+)", str(message.body))
    assert "no longer valid" in client.get(link, follow=True).content.decode()


@pytest.mark.parametrize("path", ["/accounts/password/reset/", "/accounts/login/"])
def test_a_post_from_another_site_is_refused(db: None, path: str) -> None:
    assert Client(enforce_csrf_checks=True).post(path, HOME).status_code == 403

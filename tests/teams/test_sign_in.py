"""Sign-in, sign-out, and passwords: change, reset, and guessing."""

import re
from typing import Any

import pytest
from django.conf import settings
from django.core import mail
from django.test import Client
from django.urls import NoReverseMatch, reverse
from pytest_django import Settings

from keyportal.teams.accounts import AccountAdapter
from keyportal.teams.models import Session, User
from tests.conftest import PASSWORD
from tests.support.cases import own_case

pytestmark = pytest.mark.any_database

NEW_PASSWORD = "staple battery horse correct"
WRONG = "The user name or the password is wrong."
HOME = {"login": "bob", "password": PASSWORD}


def post(client: Client, login: str, password: str = PASSWORD, **more: Any) -> int:
    """The status of one attempt: 302 is success, 200 the form with an error, 429 a rate limit."""
    answer = client.post("/accounts/login/", {"login": login, "password": password}, **more)
    return answer.status_code


def is_signed_in(client: Client) -> bool:
    return client.get("/accounts/password/change/").status_code == 200


def test_users_sign_in_by_name_or_address(client: Client, bob: User) -> None:
    for login in ("bob", "BOB", "bob@example.com", "Bob@Example.COM", " bob "):
        with own_case(login):
            answer = client.post("/accounts/login/", {"login": login, "password": PASSWORD})
            assert (answer.status_code, answer.url) == (302, "/")  # type: ignore[attr-defined]
            assert is_signed_in(client)


def test_the_sign_in_page_is_ours(client: Client, db: None) -> None:
    page = client.get("/accounts/login/").content.decode()
    assert 'name="login"' in page
    assert 'name="password"' in page
    assert "Keyportal" in page
    assert "sign up" not in page.lower()


def test_every_failure_reads_the_same(client: Client, bob: User) -> None:
    cases: list[tuple[str, str]] = [
        ("bob", "xx-guess"),
        ("bob@example.com", "xx-guess"),
        ("nobody", PASSWORD),
        ("no@where", PASSWORD),
        ("n" * 60_000, PASSWORD),
    ]
    for login, password in cases:
        with own_case(login, password):
            answer = client.post("/accounts/login/", {"login": login, "password": password})
            page = answer.content.decode()
            assert answer.status_code == 200
            assert page.count(WRONG) == 1
            assert password not in page
            assert not is_signed_in(client)


def test_missing_fields_are_reported(client: Client, db: None) -> None:
    assert client.post("/accounts/login/", {}).content.decode().count("field is required") == 2


def test_odd_names_fail_like_unknown_ones(client: Client, bob: User) -> None:
    cases: list[str] = ["bo\x00b", "b" * 5000, "b" * 60_000, "%", "' OR 1=1 --"]
    for login in cases:
        with own_case(login):
            assert post(client, login) == 200


def test_sign_in_redirects_to_next(client: Client, bob: User) -> None:
    redirect = client.get("/accounts/password/change/")
    assert redirect.url == "/accounts/login/?next=/accounts/password/change/"  # type: ignore[attr-defined]
    answer = client.post(redirect.url, HOME)  # type: ignore[attr-defined]
    assert answer.url == "/accounts/password/change/"  # type: ignore[attr-defined]


def test_next_never_leads_off_site(client: Client, bob: User) -> None:
    for target in (
        "https://evil.example/",
        "//evil.example/",
        "http:evil.example",
        "http://localhost/",
        "https://testserver:8443/",
        "/\\evil.example/",
        "javascript:alert(1)",
        "\thttps://evil.example",
    ):
        with own_case(target):
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
    assert AccountAdapter().is_open_for_signup(None) is False  # type: ignore[arg-type]


def test_an_inactive_user_sees_the_reason_only_after_the_right_password(
    client: Client, bob: User
) -> None:
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert post(client, "bob", "wrong") == 200
    answer = client.post("/accounts/login/", HOME, follow=True)
    assert "Account deactivated" in answer.content.decode()
    assert not is_signed_in(client)


def test_deactivating_a_user_ends_their_sessions_at_once(client: Client, bob: User) -> None:
    assert post(client, "bob") == 302
    assert is_signed_in(client)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert not is_signed_in(client)


def test_session_cookie_is_http_only_and_same_site(client: Client, bob: User) -> None:
    post(client, "bob")
    cookie = client.cookies["keyportal_session"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert not cookie["expires"]  # A session cookie, without `remember`.
    answer = Client().post("/accounts/login/", HOME | {"remember": "on"})
    assert answer.cookies["keyportal_session"]["max-age"]


def test_no_cookie_has_a_name_that_the_settings_do_not_prefix(client: Client, bob: User) -> None:
    """Messages are in the session: they would have a cookie without the prefix `__Host-`."""
    client.get("/accounts/login/")
    assert post(client, "bob") == 302
    change(client)
    answer = client.post("/accounts/logout/", follow=True)
    assert "You are signed out." in answer.content.decode()
    own = {settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME}
    known = f"{settings.COOKIE_PREFIX}keyportal_known_{bob.pk}"
    assert set(client.cookies) == own | {known}


def test_no_cookie_can_be_read_by_scripts(client: Client, bob: User) -> None:
    client.get("/accounts/login/")
    assert post(client, "bob") == 302
    assert len(client.cookies) == 3
    assert all(cookie["httponly"] for cookie in client.cookies.values())


def test_a_sign_in_makes_a_new_session(client: Client, bob: User) -> None:
    client.post("/accounts/login/", HOME)
    first = client.cookies["keyportal_session"].value
    client.post("/accounts/logout/")
    client.post("/accounts/login/", HOME)
    assert client.cookies["keyportal_session"].value != first
    assert not Session.objects.filter(session_key=first).exists()


# Password change and reset.


def change(client: Client, old: str = PASSWORD, new: str = NEW_PASSWORD) -> str:
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
    assert post(Client(), "bob", NEW_PASSWORD) == 302


def test_a_user_without_a_password_sets_one(client: Client, bob: User) -> None:
    bob.set_unusable_password()
    bob.save(update_fields=["password"])
    client.force_login(bob)
    elsewhere = Client()
    elsewhere.force_login(bob)
    opened = client.get("/accounts/password/change/", follow=True)
    assert opened.redirect_chain == [("/accounts/password/set/", 302)]
    assert "Set password" in opened.content.decode()
    weak = {"password1": "password", "password2": "password"}
    assert "too common" in client.post("/accounts/password/set/", weak).content.decode()
    strong = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    answer = client.post("/accounts/password/set/", strong, follow=True)
    assert "Your password is set." in answer.content.decode()
    assert is_signed_in(client)
    assert not is_signed_in(elsewhere)
    assert post(Client(), "bob", NEW_PASSWORD) == 302


def test_password_cannot_be_set_in_place_of_the_present_one(client: Client, bob: User) -> None:
    """Attack: someone at an open session, who does not know the password."""
    client.force_login(bob)
    strong = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    answer = client.post("/accounts/password/set/", strong)
    assert answer["Location"] == "/accounts/password/change/"
    assert post(Client(), "bob", NEW_PASSWORD) == 200
    strangers = Client().post("/accounts/password/set/", strong)
    assert strangers["Location"].startswith("/accounts/login/")


def test_password_change_needs_the_current_password_and_a_strong_new_one(
    client: Client, bob: User
) -> None:
    client.force_login(bob)
    assert "This is not your current password." in change(client, old="wrong")
    assert "too common" in change(client, new="password")
    assert "too similar" in change(client, new="bob@example")
    assert post(Client(), "bob") == 302


def request_reset(client: Client, email: str) -> tuple[int, str, str]:
    answer = client.post("/accounts/password/reset/", {"email": email}, follow=True)
    page = re.sub(r'csrf\w*"[^>]*|x-csrftoken[^>]*', "", answer.content.decode())
    return answer.status_code, answer.redirect_chain[-1][0], page


def test_nobody_waits_for_a_link_that_no_mail_brings(client: Client, settings: Settings) -> None:
    settings.OUTBOX_EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
    page = client.get("/accounts/password/reset/").content.decode()
    assert "Ask an operator to set a password for you." in page
    assert "Send link" not in page
    settings.OUTBOX_EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    assert "Send link" in client.get("/accounts/password/reset/").content.decode()


def test_password_is_reset_by_mail(client: Client, bob: User) -> None:
    request_reset(client, "Bob@Example.com")
    (message,) = mail.outbox
    assert message.to == ["bob@example.com"]
    assert message.subject == "[Keyportal] Reset your password"
    (link,) = re.findall(r"http://127\.0\.0\.1:8000(/\S+)", str(message.body))
    form = client.get(link, follow=True)
    assert link not in form.content.decode()
    answer = client.post(
        form.redirect_chain[-1][0],
        {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD},
        follow=True,
    )
    assert "New password set" in answer.content.decode()
    assert post(Client(), "bob", NEW_PASSWORD) == 302
    assert "no longer valid" in client.get(link, follow=True).content.decode()


def test_a_stranger_cannot_find_out_which_addresses_exist(client: Client, bob: User) -> None:
    assert request_reset(client, "bob@example.com") == request_reset(Client(), "nobody@example.com")
    assert [message.to for message in mail.outbox] == [["bob@example.com"]]


def test_an_inactive_user_gets_no_mail(client: Client, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_active=False)
    request_reset(client, "bob@example.com")
    assert not mail.outbox


def test_an_invalid_reset_link_is_refused(client: Client, db: None) -> None:
    page = client.get("/accounts/password/reset/key/zz-abc-def/", follow=True)
    assert "no longer valid" in page.content.decode()


def test_a_former_address_gives_no_access(client: Client, bob: User) -> None:
    # allauth stores the address when it is first used.
    request_reset(client, "bob@example.com")
    (message,) = mail.outbox
    bob.email = "robert@example.com"
    bob.save(update_fields=["email"])
    mail.outbox.clear()
    request_reset(Client(), "bob@example.com")
    assert not mail.outbox
    assert post(Client(), "bob@example.com") == 200
    assert post(Client(), "robert@example.com") == 302
    (link,) = re.findall(r"http://127\.0\.0\.1:8000(/\S+)", str(message.body))
    assert "no longer valid" in client.get(link, follow=True).content.decode()


@pytest.mark.parametrize("path", ["/accounts/password/reset/", "/accounts/login/"])
def test_a_post_from_another_site_is_refused(db: None, path: str) -> None:
    assert Client(enforce_csrf_checks=True).post(path, HOME).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:9999", "testserver:666", "localhost"])
def test_link_does_not_follow_the_host_header(client: Client, bob: User, host: str) -> None:
    client.post("/accounts/password/reset/", {"email": "bob@example.com"}, headers={"host": host})
    (message,) = mail.outbox
    assert re.findall(r"https?://([^/\s]+)/", str(message.body)) == ["127.0.0.1:8000"]


@pytest.mark.parametrize(("address", "count"), [("127.0.0.1", 1), ("::1", 1), ("192.0.2.1", 0)])
def test_without_a_public_address_links_are_mailed_on_this_machine_only(
    client: Client, bob: User, settings: Settings, address: str, count: int
) -> None:
    """As when HOST is 0.0.0.0 and KEYPORTAL_URL is not set."""
    settings.PUBLIC_URL = ""
    answer = client.post(
        "/accounts/password/reset/",
        {"email": "bob@example.com"},
        headers={"host": "localhost:666"},
        REMOTE_ADDR=address,
        follow=True,
    )
    assert answer.redirect_chain[-1][0] == "/accounts/password/reset/done/"
    assert len(mail.outbox) == count
    for message in mail.outbox:
        assert re.findall(r"https?://([^/\s]+)/", str(message.body)) == ["127.0.0.1:8000"]


def test_no_cache_keeps_the_pages_of_accounts(client: Client, db: None) -> None:
    for page in ("login", "password/reset", "password/reset/done", "password/reset/key/1-abc-def"):
        with own_case(page):
            answer = client.get(f"/accounts/{page}/")
            assert "no-store" in answer["Cache-Control"]

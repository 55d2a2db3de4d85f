"""Limits on wrong passwords: what a guesser can't do, and whom they can't lock out."""

import re
from collections.abc import Callable

import pytest
from django.core import mail
from django.test import Client
from pytest_django import Settings

from keyportal import settings as shipped_settings
from keyportal.teams.models import User
from tests.conftest import PASSWORD
from tests.support.cases import own_case
from tests.teams.test_sign_in import HOME, NEW_PASSWORD, change, is_signed_in, post, request_reset

pytestmark = pytest.mark.any_database

REFUSED = "Too many failed attempts"
ACCOUNT_LIMIT = 6
"""Failed attempts for an account, from everywhere, in place of 50."""
Guess = Callable[..., None]
Lower = Callable[..., None]


def sign_in(client: Client, login: str = "bob", address: str = "192.0.2.1") -> str:
    """Try the right password, and return the page."""
    data = {"login": login, "password": PASSWORD}
    return client.post("/accounts/login/", data, REMOTE_ADDR=address, follow=True).content.decode()


@pytest.fixture
def lower(settings: Settings) -> Lower:
    def lower(**limits: str) -> None:
        settings.ACCOUNT_RATE_LIMITS = settings.ACCOUNT_RATE_LIMITS | limits

    return lower


@pytest.fixture
def guess_everywhere(lower: Lower) -> Callable[..., None]:
    """Use up the limit of the account, which is lower here, with up to five guesses per address."""
    lower(failed_for_account=f"{ACCOUNT_LIMIT}/h/key")

    def guess_everywhere(login: str, count: int = ACCOUNT_LIMIT) -> None:
        for number in range(count):
            address = f"198.51.100.{number // 5}"
            assert post(Client(), login, "wrong", REMOTE_ADDR=address) == 200

    return guess_everywhere


def test_an_account_is_blocked_after_five_failed_attempts(client: Client, bob: User) -> None:
    """Another host or spelling of the name gives no new count."""
    for port, login in enumerate(("bob", "BOB", " bob ", "Bob", "bob"), 1):
        assert post(client, login, "wrong", HTTP_HOST=f"testserver:{port}") == 200
    answer = client.post("/accounts/login/", HOME, HTTP_HOST="testserver:6")
    assert REFUSED in answer.content.decode()
    assert not is_signed_in(client)


def test_one_address_that_guesses_many_names_is_blocked(client: Client, bob: User) -> None:
    for number in range(10):
        assert post(client, f"name{number}", "wrong") == 200
    answer = client.post("/accounts/login/", HOME)
    assert "Too many failed attempts" in answer.content.decode()
    assert post(client, "bob", REMOTE_ADDR="192.0.2.77") == 302


def test_clients_of_unknown_address_share_one_limit_that_is_not_the_proxys(
    client: Client, bob: User
) -> None:
    for number in range(10):
        assert post(client, f"name{number}", "wrong", REMOTE_ADDR="") == 200
    answer = client.post("/accounts/login/", HOME, REMOTE_ADDR="")
    assert "Too many failed attempts" in answer.content.decode()
    assert post(client, "bob", REMOTE_ADDR="127.0.0.1") == 302


def test_too_many_posts_get_our_429_page(client: Client, db: None, lower: Lower) -> None:
    assert shipped_settings.ACCOUNT_RATE_LIMITS["login"] == "30/m/ip"
    lower(login="3/m/ip")
    statuses = {post(client, "") for _ in range(3)}
    answer = client.post("/accounts/login/", HOME)
    assert statuses == {200}
    assert answer.status_code == 429
    assert "Too many attempts" in answer.content.decode()
    assert "Keyportal" in answer.content.decode()


def test_a_forged_forwarding_header_escapes_no_limit(client: Client, bob: User) -> None:
    for number in range(10):
        forged = f"203.0.113.{number}"
        post(client, f"name{number}", "wrong", HTTP_X_FORWARDED_FOR=forged)
    answer = client.post("/accounts/login/", HOME, HTTP_X_FORWARDED_FOR="203.0.113.99")
    assert "Too many failed attempts" in answer.content.decode()


def test_successful_sign_ins_are_not_counted(client: Client, bob: User, lower: Lower) -> None:
    """In a known browser, and in others."""
    counts = ("for_account", "for_account_from_network", "in_known_browser")
    lower(failed_from_network="2/m/ip", **{f"failed_{count}": "2/m/key" for count in counts})
    for browser in (client, client, client, Client(), Client()):
        assert post(browser, "bob") == 302
        browser.post("/accounts/logout/")


@pytest.mark.parametrize("login", ["bob", "nobody"])
def test_guesses_from_many_networks_are_limited(
    client: Client, bob: User, login: str, guess_everywhere: Guess
) -> None:
    assert shipped_settings.ACCOUNT_RATE_LIMITS["failed_for_account"] == "50/h/key"
    guess_everywhere(login, ACCOUNT_LIMIT - 1)
    assert REFUSED not in sign_in(Client(), login)
    guess_everywhere(login)
    assert REFUSED in sign_in(Client(), login)


def test_nobody_locks_a_user_out_of_a_known_browser(
    client: Client, bob: User, guess_everywhere: Guess
) -> None:
    assert post(client, "bob") == 302
    client.post("/accounts/logout/")
    guess_everywhere("bob")
    for _ in range(5):  # Also from the network of this browser.
        post(Client(), "bob", "wrong", REMOTE_ADDR="192.0.2.1")
    for _ in range(10):
        post(Client(), "name", "wrong", REMOTE_ADDR="192.0.2.1")
    assert REFUSED in sign_in(Client())
    for login in ("bob", "bob@example.com"):
        assert REFUSED not in sign_in(client, login)
        assert is_signed_in(client)
        client.post("/accounts/logout/")


def test_a_known_browser_has_a_limit_of_its_own(client: Client, bob: User) -> None:
    """Attack: the cookie is stolen, and used to guess from everywhere."""
    assert post(client, "bob") == 302
    client.post("/accounts/logout/")
    for number in range(10):
        assert post(client, "bob", "wrong", REMOTE_ADDR=f"198.51.100.{number}") == 200
    assert REFUSED in sign_in(client)


def test_a_cookie_that_is_forged_or_of_another_user_makes_no_browser_known(
    client: Client, bob: User, alice: User, guess_everywhere: Guess
) -> None:
    assert post(client, "alice") == 302
    client.post("/accounts/logout/")
    name, value = f"keyportal_known_{alice.pk}", client.cookies[f"keyportal_known_{alice.pk}"].value
    assert "alice" not in value
    for forged in (value, value[:-1], "x:y:z", ""):
        client.cookies[f"keyportal_known_{bob.pk}"] = forged
    guess_everywhere("bob")
    assert REFUSED in sign_in(client)
    assert client.cookies[name].value == value


def test_a_new_password_ends_all_known_browsers_but_this(
    client: Client, bob: User, guess_everywhere: Guess
) -> None:
    """Attack: a person who knew the former password kept the cookies of many sign-ins."""
    elsewhere = Client()
    assert post(elsewhere, "bob") == post(client, "bob") == 302
    elsewhere.post("/accounts/logout/")
    change(client)
    client.post("/accounts/logout/")
    guess_everywhere("bob")
    data = {"login": "bob", "password": NEW_PASSWORD}
    assert REFUSED in elsewhere.post("/accounts/login/", data).content.decode()
    assert client.post("/accounts/login/", data).status_code == 302


def test_a_new_password_by_mail_makes_the_browser_known(
    client: Client, bob: User, guess_everywhere: Guess
) -> None:
    """The way in for a user whose password others try, and who has no browser known."""
    guess_everywhere("bob")
    request_reset(client, "bob@example.com")
    (link,) = re.findall(r"http://127\.0\.0\.1:8000(/\S+)", str(mail.outbox[0].body))
    form = client.get(link, follow=True)
    client.post(form.redirect_chain[-1][0], {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})
    assert post(client, "bob", NEW_PASSWORD) == 302
    assert post(Client(), "bob", NEW_PASSWORD) == 200


def test_the_cookie_of_a_known_browser_is_kept_from_scripts(client: Client, bob: User) -> None:
    post(client, "bob")
    cookie = client.cookies[f"keyportal_known_{bob.pk}"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert cookie["max-age"] > 30 * 24 * 3600


def test_a_name_and_an_address_of_one_user_cannot_be_told_from_those_of_two(
    bob: User, alice: User, guess_everywhere: Guess
) -> None:
    """Attack: the limit of the name is reached; is that of the address reached too?"""
    name, address = "bob", "bob@example.com"
    network = "198.51.100.0"
    for full, other, count in (
        (name, address, 5),
        (name, address, ACCOUNT_LIMIT),
        (address, name, ACCOUNT_LIMIT),
    ):
        with own_case(full, count):
            guess_everywhere(full, count)
            assert REFUSED in sign_in(Client(), full, network)
            for login in (other, "alice@example.com", "nobody@example.com"):
                assert REFUSED not in sign_in(Client(), login, network)


def test_own_sign_ins_clear_no_count_of_the_network(
    client: Client, bob: User, alice: User, lower: Lower
) -> None:
    """Attack: a guesser signs in to an account of their own after each guess."""
    lower(failed_from_network="4/m/ip")
    for number in range(4):
        post(Client(), f"name{number}", "wrong", REMOTE_ADDR="192.0.2.1")
        if number < 3:
            assert REFUSED not in sign_in(Client(), "alice")
    assert REFUSED in sign_in(Client(), "alice")


# The current password, which a signed-in user is asked for.


def test_current_password_cannot_be_guessed_in_a_stolen_session(client: Client, bob: User) -> None:
    client.force_login(bob)
    for _ in range(5):
        assert "This is not your current password" in change(client, old="wrong")
    assert REFUSED in change(client)
    assert REFUSED in sign_in(Client(), "bob", "127.0.0.1")


def test_guesses_in_a_stolen_session_lock_nobody_out_of_a_known_browser(
    client: Client, bob: User
) -> None:
    assert post(client, "bob") == 302
    thief = Client()
    thief.force_login(bob)
    for _ in range(6):
        change(thief, old="wrong")
    assert "Your password is changed." in change(client)


def test_the_admin_has_no_form_of_its_own_for_the_password(client: Client, bob: User) -> None:
    """Attack: Django's form checks the current password without a limit."""
    bob.is_staff = True
    bob.save(update_fields=["is_staff"])
    client.force_login(bob)
    for answer in (client.get("/admin/password_change/"), client.post("/admin/password_change/")):
        assert (answer.status_code, answer.url) == (302, "/accounts/password/change/")  # type: ignore[attr-defined]

"""Passkeys in Chromium's virtual authenticator: alone, after a password, and to confirm."""

from collections.abc import Callable

import pytest
from allauth.mfa.models import Authenticator
from playwright.sync_api import Page, expect

from keyportal.teams.models import User
from tests.support.pages import button, sign_in
from tests.support.server import Server

pytestmark = pytest.mark.browser
SIGN_IN = "/profile/sign-in/"
AUTHENTICATOR = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


@pytest.fixture
def at(live: Server) -> Callable[[str], str]:
    """The address of a page at `localhost`: a passkey needs a host name."""
    return lambda path: f"http://localhost:{live.port}{path}"


@pytest.fixture
def page(
    new_page: Callable[..., Page],
    with_password: Callable[[User], User],
    at: Callable[[str], str],
    alice: User,
) -> Page:
    """Alice's page of factors, in a browser on a computer that keeps passkeys."""
    with_password(alice)
    page = new_page()
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    session.send("WebAuthn.addVirtualAuthenticator", {"options": AUTHENTICATOR})
    page.goto(at(SIGN_IN))
    sign_in(page, "alice")
    expect(page.get_by_role("heading", name="Passkeys")).to_be_visible()
    return page


def add_passkey(page: Page, *, alone: bool = True) -> None:
    button(page, "Add a passkey").click()
    page.get_by_label("Name").fill("Laptop")
    page.get_by_label("Sign in with it alone").set_checked(alone)
    button(page, "Add passkey").click()
    expect(page.get_by_text("They are shown only once.")).to_be_visible()
    button(page, "Done").click()
    expect(button(page, "Rename Laptop")).to_be_visible()


def sign_out(page: Page, login_url: str) -> None:
    page.context.clear_cookies()
    page.goto(login_url)


def test_a_passkey_is_the_only_factor(page: Page, at: Callable[[str], str]) -> None:
    add_passkey(page)
    expect(page.get_by_text("Without password")).to_be_visible()
    sign_out(page, at(f"/accounts/login/?next={SIGN_IN}"))
    button(page, "Sign in with a passkey").click()
    expect(page).to_have_url(at(SIGN_IN))
    expect(page.get_by_text("last used")).to_be_visible()


def test_a_passkey_follows_the_password(page: Page, at: Callable[[str], str]) -> None:
    add_passkey(page, alone=False)
    sign_out(page, at(f"/accounts/login/?next={SIGN_IN}"))
    sign_in(page, "alice")
    expect(page.get_by_role("heading", name="Second factor")).to_be_visible()
    button(page, "Use a passkey").click()
    expect(page).to_have_url(at(SIGN_IN))


def test_a_passkey_confirms_and_is_removed(page: Page, at: Callable[[str], str]) -> None:
    add_passkey(page)
    page.goto(at(f"/accounts/reauthenticate/passkey/?next={SIGN_IN}"))
    button(page, "Use a passkey").click()
    expect(page).to_have_url(at(SIGN_IN))
    button(page, "Remove Laptop").click()
    button(page, "Remove").click()
    expect(page.get_by_text("The passkey is removed.")).to_be_visible()
    assert not Authenticator.objects.exists()


def test_a_missing_passkey_is_told(page: Page, at: Callable[[str], str]) -> None:
    sign_out(page, at("/accounts/login/"))
    button(page, "Sign in with a passkey").click()
    expect(page.get_by_role("alert")).to_contain_text("The browser did not get a passkey")


def test_without_javascript_the_sign_in_offers_no_passkey(
    new_page: Callable[..., Page], at: Callable[[str], str]
) -> None:
    page = new_page(java_script_enabled=False)
    page.goto(at("/accounts/login/"))
    expect(button(page, "Sign in")).to_be_visible()
    expect(button(page, "Sign in with a passkey")).to_be_hidden()

"""Into the portal, and out of it."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.teams.models import User
from tests.browser.conftest import KEYS
from tests.support.pages import button, link, sign_in

pytestmark = pytest.mark.browser
LOGIN = "/accounts/login/"
Open = Callable[..., Page]
WithPassword = Callable[[User], User]


def test_people_sign_in_after_a_wrong_password_and_see_their_keys(
    new_page: Open, with_password: WithPassword, bob: User
) -> None:
    with_password(bob)
    page = new_page()
    page.goto("/")
    expect(page).to_have_url(f"{LOGIN}?next=/")
    expect(page.get_by_label("Username or e-mail")).to_be_focused()
    sign_in(page, "bob", "xx-guess")
    expect(page.get_by_role("alert")).to_have_text("The user name or the password is wrong.")
    expect(page.get_by_label("Username or e-mail")).to_have_value("bob")
    sign_in(page, "bob")
    expect(page).to_have_url(KEYS)
    expect(page.get_by_role("heading", name="API Keys", level=1)).to_be_visible()


def test_after_sign_out_neither_address_nor_back_button_shows_the_keys(
    open_keys: Open, bob: User
) -> None:
    page = open_keys(bob)
    page.locator("summary", has_text="bob").click()
    button(page, "Sign out").click()
    expect(page).to_have_url(LOGIN)
    page.go_back()
    expect(page).to_have_url(f"{LOGIN}?next={KEYS}")
    expect(page.get_by_role("table")).to_have_count(0)


def test_ended_session_redirects_to_sign_in_instead_of_opening_a_dialog(
    open_keys: Open, bob: User
) -> None:
    page = open_keys(bob)
    page.context.clear_cookies()
    button(page, "Create").click()
    expect(page).to_have_url(f"{LOGIN}?next={KEYS}")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_form_of_an_ended_session_redirects_to_sign_in(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    button(page, "Create").click()
    page.get_by_label("Name", exact=True).fill("late")
    other = page.context.new_page()
    other.goto("/accounts/logout/")
    button(other, "Sign out").click()
    expect(other).to_have_url(LOGIN)
    button(page, "OK").click()
    expect(page).to_have_url(f"{LOGIN}?next={KEYS}")
    expect(link(page, "Forgot your password?")).to_be_visible()

"""The whole portal without JavaScript: links, forms and pages."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.browser.conftest import KEYS
from tests.support.pages import button, link, names, row, shown_key, sign_in
from tests.support.server import Server

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def open_keys(open_keys: Open) -> Open:
    return lambda user: open_keys(user, java_script_enabled=False)


def make(page: Page, name: str) -> None:
    button(page, "Create").click()
    page.get_by_label("Name", exact=True).fill(name)
    button(page, "OK").click()


def test_people_sign_in_and_out(
    new_page: Open, with_password: Callable[[User], User], bob: User
) -> None:
    with_password(bob)
    page = new_page(java_script_enabled=False)
    page.goto("/")
    sign_in(page, "bob")
    expect(page).to_have_url(KEYS)
    page.locator("summary", has_text="bob").click()
    button(page, "Sign out").click()
    page.goto(KEYS)
    expect(page).to_have_url(f"/accounts/login/?next={KEYS}")


def test_key_is_created_on_a_page_and_shown_once(open_keys: Open, live: Server, bob: User) -> None:
    page = open_keys(bob)
    make(page, "")
    expect(page.get_by_role("alert")).to_have_text("Give the key a name.")
    page.get_by_label("Name", exact=True).fill("nightly")
    button(page, "OK").click()
    plaintext = shown_key(page)
    assert keystring.is_well_formed(plaintext.encode())
    assert live.request("GET", "/v1/models", key=plaintext).status == 200
    expect(button(page, "Copy")).to_have_count(0)  # It could not do anything.
    button(page, "Done").click()
    expect(row(page, "nightly")).to_be_visible()
    assert plaintext not in page.content()


def test_form_sent_twice_says_already_created(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    make(page, "nightly")
    plaintext = shown_key(page)
    page.reload()  # The browser posts the form again.
    expect(page.get_by_role("heading", name="Already created")).to_be_visible()
    assert plaintext not in page.content()
    assert ApiKey.objects.count() == 1


def test_delete_asks_on_a_page_and_cancel_leads_back(
    open_keys: Open, live: Server, bob: User, issue: Issue
) -> None:
    key, plaintext = issue(bob, "nightly")
    page = open_keys(bob)
    button(row(page, "nightly"), "Delete").click()
    expect(page.get_by_role("heading", name="Delete API key")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text(key.masked)
    button(page, "Cancel").click()
    expect(row(page, "nightly")).to_be_visible()
    button(row(page, "nightly"), "Delete").click()
    button(page, "Delete").click()
    expect(page.get_by_role("status")).to_contain_text(["The key nightly is deleted."])
    expect(names(page)).to_have_count(0)
    assert live.request("GET", "/v1/models", key=plaintext).status == 401


def test_the_list_is_refreshed_searched_and_sorted(
    open_keys: Open, bob: User, issue: Issue
) -> None:
    issue(bob, "beta")
    issue(bob, "alpha")
    page = open_keys(bob)
    issue(bob, "alphabet")
    button(page, "Refresh").click()
    expect(names(page)).to_have_text(["alphabet", "alpha", "beta"])
    link(page, "Name").click()
    expect(names(page)).to_have_text(["alpha", "alphabet", "beta"])
    page.get_by_label("Search").fill("alpha")
    page.keyboard.press("Enter")
    expect(names(page)).to_have_count(2)
    issue(bob, "alphanumeric")
    button(page, "Refresh").click()
    expect(names(page)).to_have_text(["alpha", "alphabet", "alphanumeric"])


def test_times_are_in_utc(open_keys: Open, bob: User, issue: Issue) -> None:
    issue(bob, "nightly")
    page = open_keys(bob)
    expect(row(page, "nightly").get_by_role("time")).to_contain_text("UTC")

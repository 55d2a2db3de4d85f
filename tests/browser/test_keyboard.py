"""Everything by keyboard alone: Tab, Enter, Space and Escape."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.browser.conftest import KEYS
from tests.conftest import PASSWORD
from tests.support.pages import (
    button,
    dialog,
    expect_copied,
    focused_text,
    names,
    shown_key,
)

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


def tab_to(page: Page, name: str, key: str = "Tab") -> None:
    """Press Tab until what is called `name` has the focus, as long as there is hope."""
    passed: list[str] = []
    while focused_text(page) != name:
        passed.append(focused_text(page))
        assert len(passed) < 40, passed
        page.keyboard.press(key)


def test_key_is_created_copied_and_deleted_by_keyboard(
    new_page: Open, with_password: Callable[[User], User], bob: User
) -> None:
    with_password(bob)
    page = new_page()
    page.goto(KEYS)
    page.keyboard.type("bob")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(KEYS)

    tab_to(page, "Create")
    page.keyboard.press("Enter")
    expect(dialog(page, "Create API key").get_by_label("Name", exact=True)).to_be_focused()
    page.keyboard.type("nightly")
    page.keyboard.press("Enter")

    panel = dialog(page, "API key created")
    expect(button(panel, "Copy")).to_be_focused()
    plaintext = shown_key(page)
    page.keyboard.press("Space")
    expect_copied(page, plaintext)
    expect(panel.locator("[data-copy]").first).to_be_focused()
    tab_to(page, "Done")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button(page, "Create")).to_be_focused()

    tab_to(page, "Delete")
    page.keyboard.press("Space")
    expect(button(dialog(page, "Delete API key"), "Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button(page, "Delete")).to_be_focused()

    page.keyboard.press("Enter")
    expect(button(dialog(page, "Delete API key"), "Cancel")).to_be_focused()
    tab_to(page, "Delete")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(names(page)).to_have_count(0)
    # Its row is gone, and the focus is not lost with it.
    expect(button(page, "Create")).to_be_focused()
    assert not ApiKey.objects.exists()


def test_focus_stays_in_an_open_dialog(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    button(page, "Create").click()
    expect(dialog(page, "Create API key").get_by_label("Name", exact=True)).to_be_focused()
    for _ in range(6):
        page.keyboard.press("Tab")
        # Beyond the last element browsers go round by their own frame, never by the page behind.
        assert page.evaluate(
            "document.activeElement === document.body"
            " || document.getElementById('dialog').contains(document.activeElement)"
        )


def test_first_tab_stop_is_the_skip_link(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    page.keyboard.press("Tab")
    assert focused_text(page) == "Skip to the content"
    page.keyboard.press("Enter")
    tab_to(page, "Refresh")
    assert page.url.endswith("#content")


def test_escape_closes_an_open_menu_and_keeps_the_focus(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    tab_to(page, "bob")
    page.keyboard.press("Enter")
    expect(button(page, "Sign out")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(button(page, "Sign out")).to_be_hidden()
    assert focused_text(page) == "bob"

"""Several keys at once, by mouse, by keyboard and without scripts."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.pages import button, dialog, key_named, names, row

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


def tick(page: Page, *keys: str) -> None:
    for name in keys:
        page.get_by_label(f"Select {name}", exact=True).check()


def test_several_keys_are_deleted_and_the_row_is_not_clicked_by_its_box(
    open_keys: Open, bob: User, alice: User, issue: Issue
) -> None:
    issue(alice, "of alice")
    for name in ("first", "second", "kept"):
        issue(bob, name)
    page = open_keys(bob)
    expect(button(page, "Delete selected")).to_be_hidden()
    expect(page.get_by_label("Select of alice")).to_have_count(0)
    tick(page, "first", "second")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator("[data-announce]").last).to_have_text("2 selected")
    button(page, "Delete selected").click()
    question = dialog(page, "Delete 2 API keys")
    expect(question).to_contain_text("second")
    expect(button(question, "Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(button(page, "Delete selected")).to_be_focused()
    button(page, "Delete selected").click()
    button(dialog(page), "Delete").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(names(page)).to_have_text(["kept", "of alice"])
    row(page, "kept").locator("time").first.click()
    dialog(page, "Delete API key")


def test_all_are_selected_and_disabled_by_keyboard(
    open_keys: Open, bob: User, issue: Issue
) -> None:
    for name in ("first", "second"):
        issue(bob, name)
    page = open_keys(bob)
    page.get_by_label("Select all keys that you can change").focus()
    page.keyboard.press("Space")
    expect(page.get_by_label("Select second")).to_be_checked()
    page.get_by_label("Select second").focus()
    page.keyboard.press("Space")
    expect(page.get_by_label("Select all keys that you can change")).not_to_be_checked()
    button(page, "Disable selected").focus()
    page.keyboard.press("Enter")
    question = dialog(page, "Disable 1 API key")
    page.keyboard.press("Tab")
    expect(button(question, "Disable")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(row(page, "first")).to_contain_text("Disabled")
    assert key_named("second").disabled_at is None


def test_several_keys_are_deleted_without_javascript(
    open_keys: Open, bob: User, issue: Issue
) -> None:
    for name in ("first", "second", "kept"):
        issue(bob, name)
    page = open_keys(bob, java_script_enabled=False)
    tick(page, "first", "second")
    button(page, "Delete selected").click()
    expect(page.get_by_role("heading", name="Delete 2 API keys")).to_be_visible()
    button(page, "Delete").click()
    expect(page.get_by_role("status")).to_contain_text(["2 keys are deleted."])
    expect(names(page)).to_have_text(["kept"])

"""One form makes one key, and nothing brings a shown key back."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.browser.conftest import KEYS
from tests.support.pages import (
    button,
    close_panel,
    contains_key_string,
    create,
    dialog,
    names,
    shown_key,
)

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
GUIDE = "/teams/u-8105f7322477/guide/"


def test_what_ends_a_page_or_its_dialog_forgets_the_key(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    plaintext = create(page, "test-key")
    assert contains_key_string(page, plaintext)
    close_panel(page)
    # The browser tells of the closing a moment after it.
    page.wait_for_function(
        "key => !document.documentElement.outerHTML.includes(key)", arg=plaintext
    )
    assert not contains_key_string(page, plaintext)

    plaintext = create(page, "frozen")
    # What a browser fires before it freezes the page as it stands, to show it again on Back.
    page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
    assert not contains_key_string(page, plaintext)
    expect(page.get_by_role("dialog")).to_have_count(0)

    plaintext = create(page, "reloaded")
    page.reload()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert not contains_key_string(page, plaintext)
    expect(names(page)).to_have_text(["reloaded", "frozen", "test-key"])


def test_back_and_forward_show_no_key_and_make_none(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    plaintext = create(page, "test-key")
    page.goto(GUIDE)
    assert not contains_key_string(page, plaintext)
    for _ in range(2):
        page.go_back()
        expect(page).to_have_url(KEYS)
        expect(page.get_by_role("dialog")).to_have_count(0)
        assert not contains_key_string(page, plaintext)
        page.go_forward()
        expect(page).to_have_url(GUIDE)
        assert not contains_key_string(page, plaintext)
    assert ApiKey.objects.count() == 1


def test_double_click_on_ok_creates_and_shows_one_key(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    button(page, "Create").click()
    form = dialog(page, "Create API key")
    form.get_by_label("Name", exact=True).fill("test-key")
    button(form, "OK").dblclick()
    assert shown_key(page).startswith("sk-kp-")
    expect(dialog(page, "API key created")).to_be_visible()
    assert ApiKey.objects.count() == 1


def test_form_whose_response_was_lost_says_already_created(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    lost: list[str] = []

    def lose(route: Route) -> None:
        lost.append(route.fetch().text())
        route.abort()

    page.route("**/keys/create/", lose)
    page.route("**/keys/create/", lambda route: route.continue_(), times=1)
    button(page, "Create").click()
    form = dialog(page, "Create API key")
    form.get_by_label("Name", exact=True).fill("test-key")
    button(form, "OK").click()
    expect(form.get_by_role("alert")).to_contain_text("be reached. Check your connection")
    assert 'id="new-key"' in lost[0]
    page.unroute_all()
    button(form, "OK").click()
    answer = dialog(page, "Already created")
    expect(page.locator("#new-key")).to_have_count(0)
    button(answer, "Close").click()
    # The key that nobody saw can be deleted at once.
    expect(names(page)).to_have_count(1)
    assert ApiKey.objects.count() == 1

"""The Create pop-up: its form, its refusals, and the key that it shows once."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Dialog, Page, expect

from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.browser.conftest import KEYS
from tests.support.pages import button, close_panel, create, dialog, key_named, names, row
from tests.support.server import Server

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


def test_create_opens_a_pop_up_and_cancel_gives_the_focus_back(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    button(page, "Create").click()
    form = dialog(page, "Create API key")
    name = form.get_by_label("Name", exact=True)
    expect(name).to_be_focused()
    expect(name).to_have_attribute("placeholder", "test-key")
    expect(button(form, "OK")).to_be_enabled()
    button(form, "Cancel").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button(page, "Create")).to_be_focused()
    assert not ApiKey.objects.exists()


def test_new_key_is_shown_works_and_is_in_the_list_at_once(
    open_keys: Open, live: Server, bob: User, issue: Issue
) -> None:
    issue(bob, "older")
    page = open_keys(bob)
    plaintext = create(page, "test-key")
    panel = dialog(page, "API key created")
    expect(panel).to_contain_text("It is shown only once")
    expect(panel.get_by_role("textbox", name="Key “test-key”")).to_have_text(plaintext)
    assert keystring.is_well_formed(plaintext.encode())
    assert live.request("GET", "/v1/models", key=plaintext).status == 200
    expect(names(page)).to_have_count(2)
    expect(page.locator(".usage")).to_have_text("2 of 20 keys in use")
    close_panel(page)
    expect(names(page)).to_have_text(["test-key", "older"])
    expect(row(page, "test-key")).to_contain_text(key_named("test-key").masked)


def test_closing_the_panel_asks_nothing(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    asked: list[str] = []

    def note(question: Dialog) -> None:
        asked.append(question.message)
        question.accept()

    page.on("dialog", note)
    create(page, "first")
    close_panel(page)
    create(page, "second")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.reload()
    assert asked == []
    expect(names(page)).to_have_text(["second", "first"])


def test_invalid_name_is_an_error_in_the_dialog_and_can_be_corrected(
    open_keys: Open, bob: User, issue: Issue
) -> None:
    issue(bob, "taken")
    page = open_keys(bob)
    button(page, "Create").click()
    form = dialog(page, "Create API key")
    field = form.get_by_label("Name", exact=True)
    field.fill("taken")
    button(form, "OK").click()
    expect(form.get_by_role("alert")).to_have_text(
        "A key with this name already exists in the team."
    )
    expect(field).to_have_value("taken")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    field.fill("mended")
    button(form, "OK").click()
    dialog(page, "API key created")
    assert ApiKey.objects.filter(name="mended").count() == 1


def test_key_limit_is_shown_and_enforced(
    open_keys: Open, bob: User, team: Team, issue: Issue
) -> None:
    team.max_keys = 3
    team.save(update_fields=["max_keys"])
    issue(bob, "first")
    issue(bob, "second")
    page = open_keys(bob)
    expect(page.locator(".usage")).to_have_text("2 of 3 keys in use")
    button(page, "Create").click()
    form = dialog(page, "Create API key")
    expect(form).to_contain_text("2 of 3 keys are in use.")
    issue(bob, "third")  # By a colleague, who was faster.
    form.get_by_label("Name", exact=True).fill("fourth")
    button(form, "OK").click()
    expect(form.get_by_role("alert")).to_have_text(
        "This team has 3 of 3 API keys. Delete a key that is no longer used, "
        "or ask an operator to raise the limit."
    )
    assert ApiKey.objects.count() == 3
    button(form, "Cancel").click()
    button(page, "Create").click()  # Now it says so before anything is typed.
    expect(button(form, "OK")).to_have_count(0)
    expect(form.get_by_text("3 of 3")).to_have_count(1)
    button(form, "Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_form_is_usable_as_soon_as_the_dialog_is_visible(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    # Somebody faster than any hand: were HTMX not ready, the browser would leave the page.
    page.evaluate("""
        document.getElementById("dialog").addEventListener("focusin", ({target}) => {
            setTimeout(() => { target.value = "quick"; target.form.requestSubmit(); }, 0);
        }, {once: true});
    """)
    button(page, "Create").click()
    dialog(page, "API key created")
    expect(page).to_have_url(KEYS)

"""Deleting: asked for by a row or its button, confirmed in a pop-up, and final."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page, expect

from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.models import User
from tests.support.pages import button, dialog, names, row, table
from tests.support.server import Server

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


def noted_requests(page: Page) -> list[str]:
    noted: list[str] = []
    page.on("request", lambda request: noted.append(request.url))
    return noted


def assert_nothing_was_asked(page: Page, requests: list[str]) -> None:
    """Whatever was sent before has been noted when the answer to this is here."""
    with page.expect_response("**/keys/?*"):
        button(page, "Refresh").click()
    assert not [url for url in requests if url.endswith("/delete/")]
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_click_on_a_row_opens_the_delete_dialog(open_keys: Open, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, "nightly")
    Secret.objects.update(
        last_used_at=datetime(2026, 3, 1, 20, 30, tzinfo=UTC),
        last_used_address="192.0.2.7",
        last_used_user_agent="curl/8.5",
    )
    page = open_keys(bob, timezone_id="Asia/Shanghai")
    row(page, "nightly").click()
    question = dialog(page, "Delete API key")
    for text in ("nightly", key.masked, "bob", "2026-03-02 04:30", "192.0.2.7", "curl/8.5"):
        expect(question).to_contain_text(text)
    expect(button(question, "Cancel")).to_be_focused()
    assert ApiKey.objects.exists()


def test_delete_deletes_and_the_next_call_is_refused(
    open_keys: Open, live: Server, bob: User, issue: Issue
) -> None:
    _, plaintext = issue(bob, "nightly")
    issue(bob, "kept")
    page = open_keys(bob)
    assert live.request("GET", "/v1/models", key=plaintext).status == 200
    button(row(page, "nightly"), "Delete").click()
    question = dialog(page, "Delete API key")
    with page.expect_response("**/delete/") as answer:
        button(question, "Delete").click()
    assert answer.value.status == 204
    assert live.request("GET", "/v1/models", key=plaintext).code == "invalid_api_key"
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(row(page, "nightly")).to_have_count(0)
    expect(names(page)).to_have_text(["kept"])
    expect(page.locator(".usage")).to_have_text("1 of 20 keys in use")


def test_cancel_and_escape_keep_the_key(open_keys: Open, bob: User, issue: Issue) -> None:
    issue(bob, "nightly")
    page = open_keys(bob)
    for way_out in ("Cancel", "Escape"):
        button(row(page, "nightly"), "Delete").click()
        question = dialog(page, "Delete API key")
        if way_out == "Cancel":
            button(question, "Cancel").click()
        else:
            page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(button(page, "Delete")).to_be_focused()
    expect(names(page)).to_have_text(["nightly"])
    assert ApiKey.objects.exists()


def test_deleted_key_shows_a_message_and_leaves_the_list(
    open_keys: Open, alice: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, "nightly")
    page = open_keys(bob)
    button(row(page, "nightly"), "Delete").click()
    question = dialog(page, "Delete API key")
    key.revoke(actor=alice)
    button(question, "Delete").click()
    button(dialog(page, "Deleted"), "Close").click()
    expect(table(page).get_by_text("No API keys yet.")).to_be_visible()
    expect(button(page, "Create")).to_be_focused()


def test_selected_text_and_rows_of_others_open_no_dialog(
    open_keys: Open, alice: User, bob: User, issue: Issue
) -> None:
    issue(bob, "nightly")
    issue(alice, "of alice")
    page = open_keys(bob)
    requests = noted_requests(page)
    box = row(page, "nightly").locator("code").bounding_box()
    assert box
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, middle)
    page.mouse.up()
    assert "sk-kp-" in page.evaluate("getSelection().toString()")
    assert_nothing_was_asked(page, requests)
    expect(row(page, "of alice").get_by_role("button")).to_have_count(0)
    row(page, "of alice").click()
    row(page, "of alice").locator("code").click()
    assert_nothing_was_asked(page, requests)

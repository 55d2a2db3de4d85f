"""What stands beside a new key: Copy, and examples that run as they are."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.catalog.models import ServedModel
from keyportal.teams.models import User
from tests.support.pages import (
    button,
    close_panel,
    create,
    dialog,
    expect_copied,
    stop_clock,
)
from tests.support.server import Server

pytestmark = pytest.mark.browser
Open = Callable[..., Page]


def example(page: Page, name: str) -> str:
    """Unfold one example and read it as it would be copied."""
    found = dialog(page).locator("details").filter(has=page.get_by_text(name, exact=True))
    if found.get_attribute("open") is None:
        found.locator("summary").click()
    return found.locator("code").inner_text()


def run(*command: str) -> str:
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_copy_has_the_focus_and_puts_the_key_on_the_clipboard(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    plaintext = create(page, "test-key")
    panel = dialog(page, "API key created")
    expect(button(panel, "Copy")).to_be_focused()
    stop_clock(page)
    button(panel, "Copy").click()
    expect(button(panel, "Copied")).to_be_visible()
    expect(panel.get_by_role("status")).to_have_text("Copied")
    expect_copied(page, plaintext)
    page.clock.run_for(2000)
    expect(button(panel, "Copy")).to_be_visible()


def test_copy_works_where_the_browser_offers_only_the_old_way(new_page: Open, bob: User) -> None:
    page = new_page(bob)
    # As over plain HTTP.
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.goto("/")
    plaintext = create(page, "test-key")
    stop_clock(page)
    button(page, "Copy").click()
    expect(button(page, "Copied")).to_be_focused()
    page.clock.resume()
    close_panel(page)
    page.get_by_label("Search").focus()
    page.keyboard.press("Control+V")
    expect(page.get_by_label("Search")).to_have_value(plaintext)


def test_examples_hold_this_key_can_be_copied_and_run_as_they_stand(
    open_keys: Open, live: Server, bob: User, model: ServedModel
) -> None:
    page = open_keys(bob)
    plaintext = create(page, "test-key")
    for name in ("curl", "Python", "JavaScript (Node.js)"):
        text = example(page, name)
        assert plaintext in text
        assert f"{live.url}/v1" in text
        assert f'"{model.name}"' in text
        button(dialog(page), "Copy example").click()
        expect_copied(page, text.strip())
    expect(button(dialog(page), "Copy")).to_have_count(1)
    answer = json.loads(run("sh", "-c", example(page, "curl")))
    assert answer["object"] == "chat.completion"
    assert "not a language model" in run(sys.executable, "-c", example(page, "Python"))


def test_without_a_model_the_examples_say_what_is_missing(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    create(page, "test-key")
    expect(dialog(page)).to_contain_text("No model is available yet")
    assert '"model": "{MODEL}"' in example(page, "curl")


def test_a_models_name_can_be_copied(new_page: Open, bob: User, model: ServedModel) -> None:
    page = new_page(bob)
    page.goto("/teams/u-8105f7322477/models/")
    button(page, "Copy").click()
    expect_copied(page, model.name)

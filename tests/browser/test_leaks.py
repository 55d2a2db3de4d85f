"""A leak, from the page where its finder reports it to the owner's new key."""

from collections.abc import Callable

import pytest
from django.core.cache import cache
from playwright.sync_api import Page, expect

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import Secret
from keyportal.teams.models import User
from tests.support.pages import button, contains_key_string, row, shown_key
from tests.support.server import Server

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Issue = Callable[..., tuple[object, str]]


@pytest.mark.parametrize("has_scripts", [True, False])
def test_reported_key_is_rotated_with_one_click_in_the_banner(
    new_page: Open,
    open_keys: Open,
    live: Server,
    alice: User,
    bob: User,
    model: ServedModel,
    issue: Issue,
    has_scripts: bool,
) -> None:
    cache.clear()  # Reports are limited by address, those of other tests too.
    _, old = issue(bob, "nightly")
    assert live.chat(old, model.name).status == 200
    finder = new_page(java_script_enabled=has_scripts)
    finder.goto("/leaks/report")
    finder.get_by_label("The key, or text that contains it").fill(f"export API_KEY='{old}'")
    button(finder, "Report").click()
    expect(finder.get_by_role("status")).to_contain_text(["Thank you."])
    assert not contains_key_string(finder, old)
    assert live.chat(old, model.name).code == "invalid_api_key"

    page = open_keys(bob, java_script_enabled=has_scripts)
    banner = page.get_by_role("alert").filter(has_text="was reported as leaked")
    expect(banner).to_contain_text("nightly")
    expect(banner).to_contain_text("and is disabled")
    button(banner, "Rotate it now").click()
    new = shown_key(page)
    assert live.chat(new, model.name).status == 200
    assert live.chat(old, model.name).code == "invalid_api_key"
    button(page, "Done").click()
    expect(banner).to_have_count(0)
    expect(page.get_by_text(new[-4:])).not_to_have_count(0)
    assert not contains_key_string(page, new)
    assert Secret.objects.get().last4 == new[-4:]
    # Admins see the banner of every key of the team, and now they see none.
    admins = open_keys(alice, java_script_enabled=has_scripts)
    expect(row(admins, "nightly")).to_be_visible()
    expect(admins.get_by_text("was reported as leaked")).to_have_count(0)

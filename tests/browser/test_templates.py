"""Templates, and what else can be said of a new key."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.keys.rules.permissions import Endpoints
from keyportal.teams.models import User
from tests.browser.conftest import KEYS
from tests.support.pages import button, dialog, key_named, shown_key

pytestmark = pytest.mark.browser
TEAM = "/teams/u-8105f7322477"
Open = Callable[..., Page]


def test_template_is_created_and_chosen_without_javascript(
    new_page: Open, ada: User, bob: User
) -> None:
    page = new_page(ada, java_script_enabled=False)
    page.goto(f"{TEAM}/templates/")
    button(page, "Create template").click()
    page.get_by_label("Name", exact=True).fill("CI job")
    page.get_by_label("Endpoints").select_option("chat")
    page.get_by_label("Models").fill("public/*")
    page.get_by_label("Lifetime in days").fill("30")
    button(page, "Save").click()
    expect(page.get_by_role("status")).to_contain_text(["The template CI job is created."])
    members = new_page(bob, java_script_enabled=False)
    members.goto(f"{KEYS}create/")
    members.get_by_label("Name", exact=True).fill("nightly")
    members.get_by_label("Template").select_option("CI job")
    button(members, "OK").click()
    shown_key(members)
    key = key_named("nightly")
    assert (key.allowed_models, key.endpoints) == (["public/*"], Endpoints.CHAT)
    assert key.expires_at


def test_more_is_folded_away_until_it_is_wanted(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    button(page, "Create").click()
    form = dialog(page, "Create API key")
    expect(form.get_by_label("Models")).to_be_hidden()
    expect(form.get_by_label("Last day, UTC")).to_be_hidden()
    form.get_by_label("Name", exact=True).fill("nightly")
    form.get_by_text("More options", exact=True).click()
    form.get_by_label("Networks").fill("nowhere")
    form.get_by_label("Description").fill("Of finance")
    button(form, "OK").click()
    expect(form.get_by_role("alert")).to_have_text(
        "“nowhere” is not an address or a network (CIDR)."
    )
    form.get_by_label("Networks").fill("192.0.2.0/24")
    button(form, "OK").click()
    shown_key(page)
    key = key_named("nightly")
    assert (key.description, key.allowed_networks) == ("Of finance", ["192.0.2.0/24"])

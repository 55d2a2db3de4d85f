"""Management keys on their page: made in the dialog, shown once, deleted; without scripts too."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.models import Team, User
from tests.support.looks import (
    SIZES,
    WIDE,
    assert_axe_finds_nothing,
    assert_dialog_fits,
    assert_page_fits_and_axe_finds_nothing,
    clipped,
    sizes_of,
)
from tests.support.pages import button, contains_key_string, dialog, row, shown_key
from tests.support.server import Server

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
LONGEST = "x" * 64
PATH = "/teams/u-8105f7322477/management-keys/"


def make(page: Page, name: str) -> str:
    button(page, "Create").click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Read API keys").check()
    button(page, "OK").click()
    return shown_key(page)


@pytest.mark.parametrize("has_scripts", [True, False])
def test_one_is_made_shown_once_used_and_deleted(
    new_page: Open, live: Server, alice: User, has_scripts: bool
) -> None:
    page = new_page(alice, java_script_enabled=has_scripts)
    page.goto(PATH)
    plaintext = make(page, "deploy")
    assert live.request("GET", "/api/v1/keys", key=plaintext).status == 200
    button(page, "Done").click()
    expect(row(page, "deploy")).to_be_visible()
    expect(page.locator("#new-key")).to_have_count(0)
    assert plaintext not in page.content()
    if has_scripts:
        assert not contains_key_string(page, plaintext)
    button(row(page, "deploy"), "Delete").click()
    # Without scripts it is a page of its own.
    (page.get_by_role("dialog") if has_scripts else page).get_by_role(
        "button", name="Delete", exact=True
    ).click()
    expect(page.locator(".empty strong")).to_have_text("No management keys yet.")
    assert live.request("GET", "/api/v1/keys", key=plaintext).status == 401


@pytest.fixture
def bounded(team: Team, alice: User, live: Server) -> ManagementKey:
    return ManagementKey.objects.issue(
        team=team,
        owner=alice,
        actor=alice,
        name=LONGEST,
        scopes=list(Scope),
        permissions=Permissions(("public/*",), Endpoints.CHAT),
    )[0]


def test_pages_and_dialogs_fit_and_axe_finds_nothing(
    looked_at: Open, alice: User, bounded: ManagementKey
) -> None:
    page = looked_at(alice)
    for path in ("", "create/", f"{bounded.public_id}/delete/"):
        assert_page_fits_and_axe_finds_nothing(page, PATH + path)
    for size in sizes_of(page, PATH):
        button(row(page, LONGEST), "Delete").click()
        assert_dialog_fits(page, "Delete management key")
        if size == WIDE:  # Axe looks at it in both.
            assert_axe_finds_nothing(page, "dialog")
        page.keyboard.press("Escape")
    button(page, "Create").click()
    form = dialog(page, "Create management key")
    form.get_by_text("Restrict the API keys it creates").click()
    button(form, "OK").click()
    expect(form.get_by_role("alert").first).to_be_visible()
    assert_axe_finds_nothing(page, "dialog")
    form.get_by_label("Name", exact=True).fill("y" * 64)
    form.get_by_label("Read API keys").check()
    button(form, "OK").click()
    dialog(page, "Management key created")
    for size in SIZES:
        page.set_viewport_size(size)
        assert clipped(page, "dialog") == []
        expect(button(page, "Copy")).to_be_in_viewport(ratio=1)
    assert_axe_finds_nothing(page, "dialog")

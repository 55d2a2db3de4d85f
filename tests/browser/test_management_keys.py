"""Management keys on their page: made in the dialog, shown once, deleted; without scripts too."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.models import Team, User
from tests.browser.test_screens import (
    LONGEST,
    SIZES,
    assert_axe_finds_nothing,
    assert_dialog_fits,
    sticks_out,
)
from tests.support.pages import button, contains_key_string, dialog, row, shown_key
from tests.support.server import Server

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
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


@pytest.mark.parametrize("size", SIZES, ids=["wide", "narrow"])
def test_everything_fits(
    new_page: Open, alice: User, bounded: ManagementKey, size: dict[str, int]
) -> None:
    page = new_page(alice, viewport=size)
    for path in ("", "create/", f"{bounded.public_id}/delete/"):
        page.goto(PATH + path)
        assert not sticks_out(page), path
    page.goto(PATH)
    button(row(page, LONGEST), "Delete").click()
    assert_dialog_fits(page, "Delete management key")
    page.keyboard.press("Escape")
    make(page, "y" * 64)
    found = dialog(page, "Management key created")
    assert not found.evaluate("found => found.scrollWidth > found.clientWidth")
    expect(button(page, "Copy")).to_be_in_viewport(ratio=1)


def test_axe_finds_nothing(new_page: Open, alice: User, bounded: ManagementKey) -> None:
    # Axe styles its probes inline, which our CSP would refuse.
    page = new_page(alice, bypass_csp=True, reduced_motion="reduce")
    page.goto(PATH)
    assert_axe_finds_nothing(page)
    button(page, "Create").click()
    form = dialog(page, "Create management key")
    form.get_by_text("Restrict the API keys it creates").click()
    button(form, "OK").click()
    expect(form.get_by_role("alert").first).to_be_visible()
    assert_axe_finds_nothing(page)
    form.get_by_label("Name", exact=True).fill("deploy")
    form.get_by_label("Read API keys").check()
    button(form, "OK").click()
    dialog(page, "Management key created")
    assert_axe_finds_nothing(page)
    button(page, "Done").click()
    button(row(page, "deploy"), "Delete").click()
    dialog(page, "Delete management key")
    assert_axe_finds_nothing(page)

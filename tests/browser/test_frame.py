"""What is around every page: theme, teams, navigation; and how it fits on a screen."""

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.models import Membership, Role, Team, User
from tests.browser.conftest import KEYS
from tests.browser.pages import button, create, dialog, link, row

pytestmark = pytest.mark.browser
TEAM = "/teams/u-8105f7322477"
LOGIN = "/accounts/login/"
PAGES = [
    KEYS,
    f"{KEYS}?q=nothing-is-called-that",
    f"{KEYS}create/",
    f"{TEAM}/models/",
    f"{TEAM}/members/",
    f"{TEAM}/audit/",
    f"{TEAM}/overview/",
    "/accounts/password/change/",
    "/accounts/logout/",
    "/teams/no-such-team/keys/",
]
FOR_STRANGERS = [LOGIN, "/accounts/password/reset/", "/accounts/password/reset/done/"]
WIDTHS = [{"width": 1280, "height": 900}, {"width": 390, "height": 844}]
LONGEST = "x" * 64
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


def test_the_theme_goes_round_and_outlives_a_reload(open_keys: Open, bob: User) -> None:
    page = open_keys(bob, color_scheme="light")
    surface = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(surface)
    button(page, "Theme: automatic").click()
    assert page.evaluate(surface) == light
    button(page, "Theme: light").click()
    dark = page.evaluate(surface)
    assert dark != light
    page.reload()
    expect(button(page, "Theme: dark")).to_be_visible()
    assert page.evaluate(surface) == dark
    button(page, "Theme: dark").click()
    assert page.evaluate(surface) == light


def test_the_team_switcher_leads_to_the_other_team_and_needs_two(
    open_keys: Open, bob: User, other_team: Team
) -> None:
    page = open_keys(bob)
    teams = page.get_by_role("navigation", name="Teams")
    expect(page.locator("summary", has_text="Acme")).to_have_count(0)
    Membership.objects.create(team=other_team, user=bob, role=Role.MEMBER)
    page.reload()
    page.locator("summary", has_text="Acme").click()
    teams.get_by_role("link", name="Charlie's").click()
    expect(page).to_have_url("/teams/u-0000000000cc/keys/")
    page.goto("/")  # The door to the team that one looked at last.
    expect(page).to_have_url("/teams/u-0000000000cc/keys/")


@pytest.mark.parametrize(("who", "sees_audit"), [("bob", False), ("ada", True)])
def test_navigation_has_the_pages_that_a_role_opens(
    open_keys: Open, bob: User, ada: User, who: str, sees_audit: bool
) -> None:
    page = open_keys(bob if who == "bob" else ada)
    pages = page.get_by_role("navigation", name="Pages")
    for name in ("Models", "Members", "Overview", "API Keys"):
        link(pages, name).click()
        expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()
        expect(link(pages, name)).to_have_attribute("aria-current", "page")
    expect(link(pages, "Audit")).to_have_count(int(sees_audit))


def test_an_error_page_is_told_beside_the_list_and_not_put_into_it(
    open_keys: Open, bob: User, issue: Issue
) -> None:
    issue(bob, "nightly")
    page = open_keys(bob)
    Membership.objects.filter(user=bob).update(role=Role.VIEWER)
    button(page, "Create").click()
    expect(page.get_by_role("alert")).to_contain_text("That did not work (403).")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(row(page, "nightly")).to_be_visible()


def widest(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@pytest.mark.parametrize("size", WIDTHS, ids=["wide", "narrow"])
def test_the_longest_name_fits_on_every_page_and_in_every_dialog(
    open_keys: Open, alice: User, issue: Issue, model: ServedModel, size: dict[str, int]
) -> None:
    key, _ = issue(alice, LONGEST)
    page = open_keys(alice, viewport=size)
    assert widest(page) <= 0
    expect(button(row(page, LONGEST), "Delete")).to_be_in_viewport(ratio=1)
    for name in ("Create", "Refresh"):
        expect(button(page, name)).to_be_in_viewport(ratio=1)
    button(row(page, LONGEST), "Delete").click()
    expect(button(dialog(page, "Delete API key"), "Delete")).to_be_in_viewport(ratio=1)
    expect(dialog(page)).to_be_in_viewport(ratio=1)
    assert dialog(page).evaluate("dialog => dialog.scrollWidth - dialog.clientWidth") <= 0
    page.keyboard.press("Escape")
    create(page, "y" * 64)
    expect(dialog(page, "API key created")).to_be_in_viewport(ratio=1)
    expect(button(page, "Copy")).to_be_in_viewport(ratio=1)
    assert dialog(page).evaluate("dialog => dialog.scrollWidth - dialog.clientWidth") <= 0
    for path in (*PAGES, f"{KEYS}{key.public_id}/delete/"):
        page.goto(path)
        assert widest(page) <= 0, path


def violations(page: Page) -> list[str]:
    found: dict[str, Any] = Axe().run(page).response
    return [
        f"{page.url}: {violation['id']}: {node['html']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", WIDTHS, ids=["wide", "narrow"])
def test_axe_finds_nothing_on_any_page_or_dialog(
    open_keys: Open,
    new_page: Open,
    alice: User,
    ada: User,
    other_team: Team,
    issue: Issue,
    model: ServedModel,
    size: dict[str, int],
    theme: str,
) -> None:
    key, _ = issue(ada, "nightly")
    ApiKey.objects.update(disabled_at=key.created_at, expires_at=key.created_at)
    Secret.objects.update(last_used_at=key.created_at, last_used_ip="192.0.2.7")
    Membership.objects.create(team=other_team, user=alice, role=Role.VIEWER)
    looks = {"viewport": size, "color_scheme": theme, "reduced_motion": "reduce"}
    found: list[str] = []

    stranger = new_page(**looks)
    for path in FOR_STRANGERS:
        stranger.goto(path)
        found += violations(stranger)
    page = open_keys(alice, **looks)
    for path in (*PAGES, "/teams/u-0000000000cc/keys/", f"{KEYS}{key.public_id}/delete/", KEYS):
        page.goto(path)
        found += violations(page)

    page.locator("summary", has_text="alice").click()
    found += violations(page)
    button(row(page, "nightly"), "Delete").click()
    dialog(page, "Delete API key")
    found += violations(page)
    page.keyboard.press("Escape")
    button(page, "Create").click()
    button(dialog(page, "Create API key"), "OK").click()
    expect(dialog(page).get_by_role("alert")).to_be_visible()
    found += violations(page)
    page.keyboard.press("Escape")
    create(page, "test-key")
    dialog(page, "API key created")
    found += violations(page)
    assert found == []

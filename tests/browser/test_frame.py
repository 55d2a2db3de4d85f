"""What is around every page: theme, teams and navigation."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, Session, Team, User
from tests.browser.conftest import KEYS
from tests.support.pages import button, dialog, link, row

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


def test_theme_button_cycles_and_survives_a_reload(open_keys: Open, bob: User) -> None:
    page = open_keys(bob, color_scheme="light")
    surface = "getComputedStyle(document.documentElement).backgroundColor"
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


def test_team_switcher_opens_the_other_team_and_needs_two_teams(
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


def test_navigation_opens_its_pages(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    pages = page.get_by_role("navigation", name="Pages")
    for name in ("Models", "Members", "Guide", "API Keys"):
        link(pages, name).click()
        expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()
        expect(link(pages, name)).to_have_attribute("aria-current", "page")


def test_error_is_shown_as_a_message_and_not_in_the_list(
    open_keys: Open, bob: User, issue: Issue
) -> None:
    issue(bob, "nightly")
    page = open_keys(bob)
    Membership.objects.filter(user=bob).update(role=Role.VIEWER)
    button(page, "Create").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("This needs the role Member; in this team you are Viewer.")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(row(page, "nightly")).to_be_visible()
    link(alert, "Reload the page").click()
    expect(button(page, "Refresh")).to_be_visible()
    expect(button(page, "Create")).to_have_count(0)


def test_user_without_cookies_sees_a_message_and_a_way_back(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    button(page, "Create").click()
    form = dialog(page, "Create API key")
    form.get_by_label("Name").fill("late")
    Session.objects.all().delete()
    page.context.clear_cookies()  # So the form's protection refuses it first.
    button(form, "OK").click()
    alert = form.get_by_role("alert")
    expect(alert).to_contain_text("You are signed out")
    link(alert, "Reload the page").click()
    expect(page).to_have_url(f"/accounts/login/?next={KEYS}")


def test_error_page_keeps_the_navigation(new_page: Open, bob: User) -> None:
    page = new_page(bob)
    for path in ("/nothing/", "/teams/u-0000000000cc/keys/", f"{KEYS[:-5]}audit/"):
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_have_text(
            re.compile("Not found|Access denied")
        )
        expect(page.locator("[aria-current]")).to_have_count(0)
        expect(link(page, "Go to API Keys")).to_be_visible()
    link(page, "Go to API Keys").click()
    expect(page).to_have_url(KEYS)

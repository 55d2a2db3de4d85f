"""The profile in a browser: theme and time zone, with and without JavaScript."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.teams.models import Membership, User
from tests.support.looks import assert_page_fits_and_axe_finds_nothing
from tests.support.pages import button

pytestmark = pytest.mark.browser
MEMBERS = "/teams/u-8105f7322477/members/"
DARK = "rgb(17, 19, 24)"


@pytest.mark.parametrize("has_javascript", [True, False])
def test_theme_and_time_zone_of_the_profile_hold(
    new_page: Callable[..., Page], bob: User, has_javascript: bool
) -> None:
    Membership.objects.filter(user=bob).update(created_at="2026-06-30T20:00:00Z")
    page = new_page(bob, java_script_enabled=has_javascript, timezone_id="Europe/Berlin")
    page.goto("/profile/")
    page.get_by_label("Time zone").select_option("Asia/Tokyo")
    page.get_by_label("Theme", exact=True).select_option("Dark")
    button(page, "Save").click()
    expect(page.get_by_text("Your profile is saved.")).to_be_visible()
    page.goto(MEMBERS)
    expect(page.get_by_text("2026-07-01 05:00")).to_be_visible()
    expect(page.locator("html")).to_have_css("background-color", DARK)


def test_the_button_replaces_the_theme_in_this_browser(
    new_page: Callable[..., Page], bob: User
) -> None:
    User.objects.filter(pk=bob.pk).update(theme="dark")
    page = new_page(bob, color_scheme="light")
    page.goto("/profile/")
    button(page, "Theme: dark").click()
    page.goto("/profile/")
    expect(button(page, "Theme: automatic")).to_be_visible()
    expect(page.locator("html")).not_to_have_css("background-color", DARK)
    page.get_by_label("Theme", exact=True).select_option("Dark")
    button(page, "Save").click()
    expect(button(page, "Theme: dark")).to_be_visible()


def test_pages_fit_and_axe_finds_nothing(looked_at: Callable[..., Page], alice: User) -> None:
    page = looked_at(alice)
    for path in (
        "/profile/",
        "/profile/email/",
        "/profile/sessions/",
        "/profile/history/",
        "/profile/sign-in/",
        "/profile/sign-in/app/add/",
        "/profile/sign-in/passkeys/add/",
        "/accounts/reauthenticate/",
    ):
        assert_page_fits_and_axe_finds_nothing(page, path)

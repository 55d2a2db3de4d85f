"""The list: refreshed, searched, sorted, paged, and told in the viewer's own time."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page, Route, expect

from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.browser.conftest import KEYS
from tests.support.pages import button, link, names, row, table

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


def test_empty_list_says_how_to_begin(open_keys: Open, bob: User) -> None:
    page = open_keys(bob)
    expect(table(page).get_by_text("No API keys yet.")).to_be_visible()
    expect(page.get_by_text("Press Create")).to_be_visible()
    expect(table(page).get_by_text("0 of 20")).to_be_visible()


def test_refresh_is_busy_and_then_shows_what_others_made(
    open_keys: Open, alice: User, bob: User, issue: Issue
) -> None:
    issue(bob, "mine")
    page = open_keys(bob)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/keys/*", hold)
    issue(alice, "theirs")
    button(page, "Refresh").click()
    expect(table(page)).to_have_attribute("aria-busy", "true")
    expect(page.locator("#refresh.htmx-request")).to_be_visible()
    expect(names(page)).to_have_text(["mine"])
    held[0].continue_()
    expect(row(page, "theirs")).to_contain_text("alice")
    expect(table(page)).to_have_attribute("aria-busy", "false")
    expect(button(page, "Refresh")).to_be_focused()
    expect(page.get_by_role("status").last).to_have_text("1–2 of 2")


def test_refresh_says_when_the_server_is_away_and_keeps_the_list(
    open_keys: Open, bob: User, issue: Issue
) -> None:
    issue(bob, "mine")
    page = open_keys(bob)
    page.route("**/keys/*", lambda route: route.abort())
    button(page, "Refresh").click()
    expect(page.get_by_role("alert")).to_contain_text("be reached. Check your connection")
    expect(names(page)).to_have_text(["mine"])
    page.unroute_all()
    button(page, "Refresh").click()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_search_finds_names_and_public_ids_while_one_types(
    open_keys: Open, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, "nightly report")
    issue(bob, "web shop")
    page = open_keys(bob)
    search = page.get_by_role("search").get_by_label("Search")
    search.press_sequentially("REPORT")
    expect(row(page, "web shop")).to_have_count(0)
    expect(names(page)).to_have_text(["nightly report"])
    expect(search).to_be_focused()
    search.fill("no such thing")
    search.press("Enter")
    expect(search).to_be_focused()
    expect(table(page).get_by_text("No key matches “no such thing”.")).to_be_visible()
    search.fill(key.public_id)
    expect(row(page, "nightly report")).to_be_visible()
    page.reload()  # The address has the search.
    expect(search).to_have_value(key.public_id)
    expect(names(page)).to_have_text(["nightly report"])


def test_columns_sort_both_ways_and_say_so(open_keys: Open, bob: User, issue: Issue) -> None:
    for name in ("beta", "alpha", "gamma"):
        issue(bob, name)
    page = open_keys(bob)
    expect(names(page)).to_have_text(["gamma", "alpha", "beta"])
    expect(page.get_by_role("columnheader", name="Created")).to_have_attribute(
        "aria-sort", "descending"
    )
    for direction, order in (
        ("ascending", ["alpha", "beta", "gamma"]),
        ("descending", ["gamma", "beta", "alpha"]),
    ):
        link(page, "Name").click()
        expect(page.get_by_role("columnheader", name="Name")).to_have_attribute(
            "aria-sort", direction
        )
        expect(names(page)).to_have_text(order)
        expect(link(page, "Name")).to_be_focused()


def test_pages_hold_25_and_keep_the_search(
    open_keys: Open, bob: User, team: Team, issue: Issue
) -> None:
    team.max_keys = 30
    team.save(update_fields=["max_keys"])
    for number in range(27):
        issue(bob, f"key-{number:02}")
    issue(bob, "other")
    page = open_keys(bob)
    page.get_by_label("Search").fill("key-")
    expect(table(page).get_by_text("1–25 of 27")).to_be_visible()
    expect(names(page)).to_have_count(25)
    link(page, "Next").click()
    expect(table(page).get_by_text("26–27 of 27")).to_be_visible()
    expect(names(page)).to_have_text(["key-01", "key-00"])
    issue(bob, "key-27")
    button(page, "Refresh").click()
    expect(page.get_by_role("status").last).to_have_text("26–28 of 28")
    link(page, "Previous").click()
    expect(table(page).get_by_text("1–25 of 28")).to_be_visible()


def test_times_are_shown_in_the_local_zone_and_stored_in_utc(
    open_keys: Open, bob: User, issue: Issue
) -> None:
    issue(bob, "test-key")
    ApiKey.objects.update(created_at=datetime(2026, 3, 1, 20, 30, tzinfo=UTC))
    page = open_keys(bob, timezone_id="Asia/Shanghai")
    for _ in range(2):
        time = row(page, "test-key").get_by_role("time")
        expect(time).to_have_text("2026-03-02 04:30")
        expect(time).to_have_attribute("datetime", "2026-03-01T20:30:00+00:00")
        assert "ago (Monday" in (time.get_attribute("title") or "")
        with page.expect_response(f"**{KEYS}*"):
            button(page, "Refresh").click()


def test_key_string_in_the_search_finds_its_key_and_is_not_in_the_address(
    open_keys: Open, bob: User, issue: Issue
) -> None:
    wanted, plaintext = issue(bob, "wanted")
    issue(bob, "other")
    page = open_keys(bob)
    page.get_by_role("searchbox").fill(plaintext)
    expect(names(page)).to_have_text(["wanted"])
    page.wait_for_url(f"**{KEYS}?*q={wanted.public_id}*")
    link(table(page), "Name").click()
    expect(page.locator("th[aria-sort=ascending]")).to_be_visible()
    assert plaintext[14:] not in page.url

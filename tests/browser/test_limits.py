"""Limits, set in a pop-up over the list."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.keys.models import ApiKey
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from tests.browser.conftest import KEYS
from tests.support.pages import button, dialog, link, row

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


def test_member_sets_limits_up_to_the_ceiling(open_keys: Open, bob: User, issue: Issue) -> None:
    Team.objects.update(key_limits=Limits(requests_per_minute=60))
    key, _ = issue(bob, "nightly")
    page = open_keys(bob)
    button(row(page, "nightly"), "Limits").click()
    limits = dialog(page, "Limits").get_by_label("Requests per minute")
    expect(limits).to_have_value("60")
    limits.fill("61")
    button(dialog(page), "Save").click()
    expect(dialog(page, "Limits").get_by_role("alert")).to_have_text("At most 60.")
    limits.fill("30")
    button(dialog(page), "Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button(page, "Limits")).to_be_visible()
    assert ApiKey.objects.get(pk=key.pk).limits == Limits(requests_per_minute=30)


def test_an_admin_sets_limits_without_javascript(new_page: Open, ada: User, issue: Issue) -> None:
    key, _ = issue(ada, "nightly")
    page = new_page(ada, java_script_enabled=False)
    page.goto(KEYS)
    button(row(page, "nightly"), "Limits").click()
    page.get_by_label("Tokens per day").fill("5000")
    button(page, "Save").click()
    expect(page.get_by_role("status")).to_contain_text(["The limits of nightly are changed."])
    link(page, "Settings").click()
    link(page, "Limits").click()
    page.get_by_label("Parallel requests").fill("2")
    button(page, "Save").click()
    expect(page.get_by_role("status")).to_contain_text(["The limits of new keys are changed."])
    assert ApiKey.objects.get(pk=key.pk).limits == Limits(tokens_per_day=5000)
    assert Team.objects.get(slug="u-8105f7322477").key_limits == Limits(parallel_requests=2)

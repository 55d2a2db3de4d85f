"""The receipt above the list, after a deletion."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.audit.models import Tombstone
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.pages import button, delete, link, names

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


def test_receipt_appears_refreshes_itself_and_can_be_closed(
    open_keys: Open, bob: User, issue: Issue
) -> None:
    issue(bob, "nightly")
    issue(bob, "other")
    issue(bob, "kept")
    page = open_keys(bob)
    delete(page, "nightly")
    receipt = page.get_by_role("region", name="nightly was deleted")
    expect(receipt).to_contain_text("by bob")
    expect(receipt).to_contain_text("0 requests")
    Tombstone.objects.update(refused_requests=41)
    expect(receipt).to_contain_text("41 requests")
    delete(page, "other")
    expect(page.get_by_role("region", name="other was deleted")).to_be_visible()
    expect(receipt).to_have_count(0)
    expect(names(page)).to_have_text(["kept"])
    button(page, "Dismiss the receipt").click()
    expect(page.locator("#receipt")).to_be_empty()
    page.wait_for_timeout(2500)  # No refresh brings it back.
    expect(page.locator("#receipt")).to_be_empty()


def test_without_javascript_a_link_leads_to_it(open_keys: Open, bob: User, issue: Issue) -> None:
    issue(bob, "nightly")
    page = open_keys(bob, java_script_enabled=False)
    button(page, "Delete").click()
    button(page, "Delete").click()
    link(page, "See the receipt").click()
    expect(page.get_by_role("region", name="nightly was deleted")).to_contain_text("by bob")
    link(page, "Back to API Keys").click()
    expect(page.get_by_role("heading", name="API Keys")).to_be_visible()

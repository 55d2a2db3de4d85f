"""Policy: set by an admin, met by those who make keys."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from tests.support.pages import button, dialog, key_named, link, row, shown_key

pytestmark = pytest.mark.browser
TEAM = "/teams/u-8105f7322477"
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


def test_policy_of_an_admin_applies_to_a_member(
    new_page: Open, open_keys: Open, ada: User, bob: User, issue: Issue
) -> None:
    issue(bob, "old")
    page = new_page(ada)
    page.goto(f"{TEAM}/keys/")
    link(page, "Settings").click()
    link(page, "Policy").click()
    page.get_by_label("Maximum lifetime in days").fill("30")
    page.get_by_label("Name pattern").fill("ci-*")
    button(page, "Save").click()
    expect(page.get_by_role("status")).to_contain_text(["The policy is changed."])
    broken = page.get_by_role("region", name="1 existing key violates the policy")
    expect(row(page, "old")).to_contain_text("Names of keys in this team must match ci-*.")
    link(broken, "Fix them").click()
    expect(page.get_by_role("heading", name="Health")).to_be_visible()
    expect(button(row(page, "old"), "Set expiry old")).to_be_visible()
    members = open_keys(bob)
    button(members, "Create").click()
    form = dialog(members, "Create API key")
    expect(form.get_by_label("Expires")).to_have_value("30")
    form.get_by_label("Name", exact=True).fill("nightly")
    button(form, "OK").click()
    expect(form.get_by_role("alert")).to_have_text("Names of keys in this team must match ci-*.")
    form.get_by_label("Name", exact=True).fill("ci-nightly")
    button(form, "OK").click()
    shown_key(members)
    end = key_named("ci-nightly").expires_at
    assert end
    assert end <= timezone.now() + timedelta(days=30)


def test_user_who_cannot_create_keys_has_no_button(open_keys: Open, ada: User, bob: User) -> None:
    Team.objects.update(policy=Policy(min_creator_role="admin"))
    page = open_keys(bob)
    expect(button(page, "Create")).to_have_count(0)
    expect(page.get_by_text("does not let you create keys")).to_be_visible()
    expect(button(open_keys(ada), "Create")).to_be_visible()

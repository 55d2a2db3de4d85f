"""Policy: set by an admin, met by those who make keys."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from tests.browser.pages import button

pytestmark = pytest.mark.browser
Open = Callable[..., Page]


def test_who_may_not_create_finds_no_button(open_keys: Open, ada: User, bob: User) -> None:
    Team.objects.update(policy=Policy(creators="admin"))
    page = open_keys(bob)
    expect(button(page, "Create")).to_have_count(0)
    expect(page.get_by_text("others make keys")).to_be_visible()
    expect(button(open_keys(ada), "Create")).to_be_visible()

"""A person lets a program in, from the link that the program shows, with and without JavaScript."""

from collections.abc import Callable

import pytest
from django.core.cache import cache
from playwright.sync_api import Page, expect

from keyportal.keys.models import ApiKey
from keyportal.keys.programs import device_flow
from keyportal.teams.models import Team, User
from tests.conftest import PASSWORD
from tests.support.pages import button

pytestmark = pytest.mark.browser
CLIENT = "coding-agent"


@pytest.mark.parametrize("has_javascript", [True, False])
def test_a_person_who_is_signed_out_lets_a_program_in(
    new_page: Callable[..., Page],
    bob: User,
    team: Team,
    with_password: Callable[[User], User],
    has_javascript: bool,
) -> None:
    cache.clear()
    with_password(bob)
    codes = device_flow.begin(CLIENT, "198.51.100.7")
    page = new_page(java_script_enabled=has_javascript)
    page.goto(f"/device/?code={codes.user_code}")
    page.get_by_label("Username or e-mail").fill("bob")
    page.get_by_label("Password").fill(PASSWORD)
    button(page, "Sign in").click()
    button(page, "Continue").click()
    expect(page.get_by_role("heading", name="Let this program in?")).to_be_visible()
    expect(page.get_by_text("Not the network of this browser")).to_be_visible()
    button(page, "Let it in").click()
    expect(page.get_by_text("gets its key within a few seconds")).to_be_visible()
    key, _ = device_flow.redeem(codes.device_code, CLIENT)
    page.goto(f"/teams/{team.slug}/keys/")
    expect(page.get_by_text(key.name)).to_be_visible()
    expect(page.get_by_text("Program", exact=True)).to_be_visible()
    page.goto("/accounts/logout/")
    button(page, "Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert not ApiKey.objects.exists()

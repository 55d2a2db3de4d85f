"""Admins of a team connect its own account at a hosted API."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from keyportal.teams.models import Team, User

pytestmark = pytest.mark.browser


def test_server_of_a_team_from_its_preset_to_its_end(
    new_page: Callable[..., Page], ada: User, team: Team
) -> None:
    """That it is asked is shown elsewhere: no server that a test starts has a public address."""
    page = new_page(ada)
    page.goto(f"/teams/{team.slug}/servers/")
    page.get_by_role("button", name="Add model server").click()
    page.get_by_role("link", name="OpenAI", exact=True).click()
    page.get_by_label("Base URL").fill("https://10.0.0.1/v1")
    page.get_by_role("textbox", name="Credential", exact=True).fill("sk-of-the-team")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_text("don't allow teams to add 10.0.0.1")).to_be_visible()
    page.get_by_label("Base URL").fill("https://api.example.com/v1")
    page.get_by_role("textbox", name="Credential", exact=True).fill("sk-of-the-team")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_text("Stored, sent in")).to_be_visible()
    assert "sk-of-the-team" not in page.content()
    page.get_by_role("button", name="Add by name").click()
    page.get_by_label("Name on the server").fill("gpt-4o")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("row", name=f"{team.slug}/gpt-4o")).to_be_visible()
    page.get_by_role("button", name="Switch off").click()
    expect(page.get_by_text("Off", exact=True)).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("nothing stops")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No model servers yet.")).to_be_visible()
    assert not team.servers.exists()

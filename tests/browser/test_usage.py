"""The pages of usage: charts that follow filter and theme, calls page by page, ending a call."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from keyportal.teams.models import Team, User
from keyportal.usage.models import Call, EndRequest, RunningCalls, UsageDay
from keyportal.usage.reports.periods import Step
from tests.support.pages import button, link

pytestmark = pytest.mark.browser
TEAM = "/teams/u-8105f7322477"
Open = Callable[..., Page]
CHARTS = 5


@pytest.fixture
def usage(team: Team) -> None:
    today = Step.DAY.floor(timezone.now())
    for model, requests in (("public/small", 1200), ("public/large", 34)):
        UsageDay.objects.create(
            start=today,
            team_slug=team.slug,
            public_id="AbCd1234",
            owner_id=7,
            model=model,
            requests=requests,
            latency_2=requests,
        )


def colours(page: Page) -> list[str]:
    """Of the first bar of each chart, as it was drawn."""
    found: list[str] = page.evaluate(
        "Object.values(Chart.instances).map(c => c.data.datasets[0].backgroundColor)"
    )
    return found


def test_charts_are_drawn_and_follow_filter_and_theme(
    new_page: Open, vera: User, usage: None
) -> None:
    page = new_page(vera, color_scheme="light")
    page.goto(f"{TEAM}/usage/")
    expect(page.locator(".totals")).to_contain_text("1,234")
    before = colours(page)
    assert len(before) == CHARTS
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "old => Chart.instances[Object.keys(Chart.instances)[0]]"
        ".data.datasets[0].backgroundColor !== old",
        arg=before[0],
    )
    page.get_by_label("Model", exact=True).focus()
    page.get_by_label("Model", exact=True).select_option("public/large")
    expect(page.locator(".totals dd").first).to_have_text("34")
    expect(page).to_have_url(
        f"{TEAM}/usage/?key=&model=public%2Flarge&member=&range=14d&by=key"
        + page.url[page.url.index("&start") :]
    )
    expect(page.get_by_label("Model", exact=True)).to_be_focused()
    page.wait_for_function(f"Object.keys(Chart.instances).length === {CHARTS}")
    assert colours(page)[0] not in before
    button(page, "Theme: automatic").click()
    page.wait_for_function(
        "old => Object.values(Chart.instances)[0].data.datasets[0].backgroundColor === old",
        arg=before[0],
    )


def test_tables_have_the_numbers_without_javascript(
    new_page: Open, vera: User, usage: None
) -> None:
    page = new_page(vera, java_script_enabled=False)
    page.goto(f"{TEAM}/")
    page.goto(f"{TEAM}/usage/")
    page.get_by_label("Group by").select_option("model")
    button(page, "Show").click()
    expect(page.locator("canvas").first).to_be_hidden()
    expect(link(page, "CSV")).to_have_attribute("href", re.compile("/usage/csv/.*by=model"))
    page.get_by_text("Show as a table").first.click()
    row = page.get_by_role("region", name="Requests").get_by_role("row").last
    expect(row).to_contain_text(f"{timezone.now():%Y-%m-%d}")
    expect(row.get_by_role("cell")).to_have_text(["1,200", "34", "1,234"])


@pytest.mark.parametrize("javascript", [True, False])
def test_calls_are_paged_and_filtered(
    new_page: Open, charlie: User, other_team: Team, javascript: bool
) -> None:
    """Of a team for which no other test calls anything, which the server writes down late."""
    for number in range(51):
        Call.objects.create(
            owner_id=7,
            started_at=timezone.now() - timedelta(seconds=number),
            team_slug=other_team.slug,
            public_id="AbCd1234",
            model=f"model-{number}",
            endpoint="/v1/embeddings",
            status=500 if number == 50 else 200,
            duration_ms=1,
        )
    page = new_page(charlie, java_script_enabled=javascript)
    page.goto(f"/teams/{other_team.slug}/calls/")
    link(page, "Older").click()
    expect(page.get_by_text("model-50")).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(1)
    link(page, "Newer").click()
    expect(page.locator("tbody tr")).to_have_count(50)
    page.get_by_label("Status").select_option("5")
    if not javascript:
        button(page, "Show").click()
    expect(page.locator("tbody tr")).to_have_count(1)


def test_an_admin_watches_calls_and_ends_one(new_page: Open, ada: User, team: Team) -> None:
    call = {
        "id": "abc123",
        "public_id": "AbCd1234",
        "model": "public/small",
        "endpoint": "/v1/chat/completions",
        "seconds": 0,
        "tokens": 5,
        "address": None,
    }
    ahead = timezone.now() + timedelta(hours=1)
    row = RunningCalls.objects.create(
        worker="one", team_slug=team.slug, calls=[call], written_at=ahead
    )
    page = new_page(ada)
    page.goto(f"{TEAM}/running/")
    expect(page.locator("tbody")).to_contain_text("public/small")
    call["tokens"] = 4321
    RunningCalls.objects.filter(pk=row.pk).update(calls=[call])
    expect(page.locator("tbody")).to_contain_text("4,321")
    button(page, "End").click()
    expect(page.get_by_text("Ending")).to_be_visible()
    assert EndRequest.objects.get().call_id == "abc123"
    RunningCalls.objects.all().delete()
    expect(page.get_by_text("No running calls.")).to_be_visible()

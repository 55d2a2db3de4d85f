"""Health: from a finding to what can be done about it."""

from collections.abc import Callable

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.pages import button, dialog, link, row

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


def test_action_of_a_finding_opens_its_dialog_and_updates_the_list(
    open_keys: Open, bob: User, issue: Issue
) -> None:
    issue(bob, "nightly")
    ApiKey.objects.update(reported_at=timezone.now())
    page = open_keys(bob)
    link(page, "Health").click()
    link(page, "Reported as leaked 1").click()
    button(row(page, "nightly"), "Delete nightly").click()
    button(dialog(page, "Delete API key"), "Delete").click()
    expect(page.get_by_text("No keys have this finding.")).to_be_visible()
    assert not ApiKey.objects.exists()

"""People in a browser: invited, joining with a new account, promoted, removed with their keys."""

from collections.abc import Callable

import pytest
from django.core.cache import cache
from playwright.sync_api import Locator, Page, expect

from keyportal.keys.models import ApiKey
from keyportal.people.links import url_for
from keyportal.people.models import Invitation
from keyportal.teams.models import Membership, Role, Team, User
from tests.conftest import PASSWORD
from tests.support.looks import (
    SIZES,
    assert_axe_finds_nothing,
    assert_dialog_fits,
    assert_page_fits_and_axe_finds_nothing,
)
from tests.support.pages import button, expect_copied, row
from tests.support.server import Server

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
MEMBERS = "/teams/u-8105f7322477/members/"


@pytest.mark.parametrize("has_scripts", [True, False])
def test_somebody_is_invited_joins_and_is_removed(
    new_page: Open,
    alice: User,
    ada: User,
    issue: Callable[..., tuple[ApiKey, str]],
    has_scripts: bool,
) -> None:
    """Without scripts, each dialog is a page of its own."""
    cache.clear()
    page = new_page(alice, java_script_enabled=has_scripts)
    dialog: Page | Locator = page.get_by_role("dialog") if has_scripts else page.locator("article")
    page.goto(MEMBERS)
    button(page, "Invite").click()
    dialog.get_by_label("E-mail addresses").fill("Carol <carol@example.com>\ndan@example.com")
    dialog.get_by_label("Note (optional)").fill("Welcome!")
    button(dialog, "Invite").click()
    link = dialog.locator("#link-1").inner_text()
    if has_scripts:
        button(dialog, "Copy").first.click()
        expect_copied(page, link)
    button(dialog, "Done").click()
    expect(row(page, "carol@example.com")).to_be_visible()
    assert link not in page.content()

    carols = new_page(java_script_enabled=has_scripts)
    carols.goto(link[link.index("/invitations/") :])
    expect(carols.get_by_text("Welcome!")).to_be_visible()
    carols.get_by_label("Username").fill("carol")
    carols.get_by_label("Password", exact=True).fill(PASSWORD)
    carols.get_by_label("Repeat password").fill(PASSWORD)
    button(carols, "Make an account and join").click()
    expect(carols.get_by_role("heading", name="API Keys")).to_be_visible()
    carol = User.objects.get(username="carol")
    issue(carol, "nightly")

    page.goto(MEMBERS)
    expect(page.get_by_text("carol@example.com")).to_have_count(0)
    button(row(page, "carol"), "Change role").click()
    dialog.get_by_label("Role").select_option("Admin")
    button(dialog, "Save").click()
    expect(row(page, "carol")).to_contain_text("Admin")
    button(row(page, "dan@example.com"), "Revoke").click()
    button(dialog, "Revoke").click()
    expect(page.get_by_text("dan@example.com", exact=True)).to_have_count(0)
    button(row(page, "carol"), "Remove").click()
    expect(dialog.get_by_text("nightly").first).to_be_visible()
    dialog.get_by_label("Hand all keys over to").select_option("ada")
    button(dialog, "Remove").click()
    expect(page.get_by_text("carol", exact=True)).to_have_count(0)
    assert ApiKey.objects.get().owner == ada
    carols.reload()
    expect(button(carols, "Sign in")).to_be_visible()


def test_member_leaves_and_the_next_request_is_refused_on_every_worker(
    new_page: Open,
    live: Server,
    alice: User,
    bob: User,
    issue: Callable[..., tuple[ApiKey, str]],
) -> None:
    _, key = issue(bob)
    assert live.request("GET", "/v1/models", key=key).status == 200
    page = new_page(bob)
    page.goto(MEMBERS)
    button(page, "Leave").click()
    button(page.get_by_role("dialog"), "Leave").click()
    expect(page.get_by_text("You are no longer in Acme.")).to_be_visible()
    assert not Membership.objects.filter(user=bob).exists()
    # Each connection may go to another worker.
    statuses = {live.request("GET", "/v1/models", key=key).status for _ in range(20)}
    assert statuses == {401}


def test_pages_fit_and_axe_finds_nothing(
    looked_at: Open, alice: User, bob: User, team: Team, issue: Callable[..., tuple[ApiKey, str]]
) -> None:
    for number in range(3):
        issue(bob, f"key-{number}-{'x' * 40}")
    invitation = Invitation.objects.create(
        team=team,
        email=f"{'c' * 60}@example.com",
        role=Role.OWNER,
        invited_by=alice,
        note="Hi " * 90,
    )
    User.objects.filter(pk=alice.pk).update(username="v" * 120)
    Team.objects.filter(pk=team.pk).update(name="W" * 100)
    page = looked_at(alice)
    assert_page_fits_and_axe_finds_nothing(page, MEMBERS)
    for size in SIZES:
        page.set_viewport_size(size)
        for name, title in (("Remove", "Remove bob"), ("Change role", "Change role")):
            button(row(page, "bob"), name).click()
            assert_dialog_fits(page, title)
            if size == SIZES[-1]:  # Axe looks at it in both.
                assert_axe_finds_nothing(page, "dialog")
                page.set_viewport_size(size)
            page.keyboard.press("Escape")
    strangers = looked_at()
    link = url_for(invitation, is_mailed=False)
    assert_page_fits_and_axe_finds_nothing(strangers, link[link.index("/invitations/") :])

"""A key's page: each thing that can be done there, by its dialog and without JavaScript."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Locator, Page, expect

from keyportal.catalog.models import ServedModel
from keyportal.keys.changes import disable
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.leaks import handling
from keyportal.leaks.reports import ReportContents, ReportedKey
from keyportal.teams.models import Team, User
from keyportal.usage.models import UsageDay, UsageHour
from keyportal.usage.reports.periods import Step
from tests.browser.conftest import KEYS
from tests.support.pages import button, contains_key_string, dialog, link, row, shown_key
from tests.support.server import Server

pytestmark = pytest.mark.browser
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def nightly(bob: User, issue: Issue) -> tuple[ApiKey, str]:
    return issue(bob, "nightly")


@pytest.fixture
def open_key(new_page: Open, nightly: tuple[ApiKey, str]) -> Open:
    """The page of the key `nightly`."""

    def open_key(user: User, **options: object) -> Page:
        page = new_page(user, **options)
        page.goto(f"{KEYS}{nightly[0].public_id}/")
        return page

    return open_key


def part(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def heard(page: Page) -> Locator:
    """What a screen reader is told of the page."""
    return page.locator("body > [data-announce]")


def test_name_links_the_page_and_the_row_opens_the_delete_dialog(
    open_keys: Open, bob: User, nightly: tuple[ApiKey, str]
) -> None:
    page = open_keys(bob)
    link(row(page, "nightly"), "nightly").click()
    expect(page.get_by_role("heading", name="nightly")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    link(page.locator("main"), "API Keys").click()
    row(page, "nightly").get_by_text("bob").click()
    dialog(page, "Delete API key")


def test_changed_permissions_hold_for_the_next_call(
    open_key: Open, live: Server, bob: User, model: ServedModel, nightly: tuple[ApiKey, str]
) -> None:
    key, plaintext = nightly
    page = open_key(bob)
    assert live.request("GET", "/v1/models", key=plaintext).status == 200
    button(page, "Change the permissions").click()
    form = dialog(page, "Permissions")
    expect(form.get_by_label("More names or patterns")).to_be_hidden()
    form.get_by_label("Only these").check()
    button(form, "Save").click()
    expect(form.get_by_role("alert")).to_have_text("Choose a model or enter a pattern.")
    form.get_by_label(model.name).check()
    form.get_by_label("More names or patterns").fill("public/*")
    form.get_by_label("Chat and text generation only").check()
    form.get_by_label("Allowed networks").fill("192.0.2.0/24")
    button(form, "Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(part(page, "Permissions")).to_contain_text("192.0.2.0/24")
    expect(heard(page)).to_have_text("The permissions of nightly are changed.")
    expect(button(page, "Change the permissions")).to_be_focused()
    expected = Permissions(("public/*", model.name), Endpoints.CHAT, ("192.0.2.0/24",))
    assert ApiKey.objects.get(pk=key.pk).permissions == expected
    assert live.request("GET", "/v1/models", key=plaintext).status == 403


def test_key_is_disabled_and_enabled_again(
    open_key: Open, live: Server, bob: User, nightly: tuple[ApiKey, str]
) -> None:
    _, plaintext = nightly
    page = open_key(bob)
    button(page, "Disable").click()
    button(dialog(page, "Disable API key"), "Disable").click()
    expect(page.locator(".badge")).to_have_text(["Disabled"])
    assert live.request("GET", "/v1/models", key=plaintext).code == "invalid_api_key"
    button(page, "Enable").click()
    expect(page.locator(".badge")).to_have_count(0)
    expect(button(page, "Disable")).to_be_focused()
    assert live.request("GET", "/v1/models", key=plaintext).status == 200


def test_name_description_and_tags_are_edited(open_key: Open, bob: User, issue: Issue) -> None:
    issue(bob, "taken")
    page = open_key(bob)
    button(page, "Edit").click()
    form = dialog(page, "Edit API key")
    expect(form.get_by_label("Name")).to_be_focused()
    form.get_by_label("Name").fill("taken")
    form.get_by_label("Description").fill("Runs on Sundays")
    form.get_by_label("Tags").fill("ci, batch")
    button(form, "Save").click()
    expect(form.get_by_role("alert")).to_contain_text("already exists")
    form.get_by_label("Name").fill("weekly")
    button(form, "Save").click()
    expect(page.get_by_role("heading", name="weekly")).to_be_visible()
    expect(page.get_by_role("list", name="Tags").get_by_role("listitem")).to_have_text(
        ["ci", "batch"]
    )
    expect(part(page, "History")).to_contain_text("Name: nightly → weekly")


def test_key_is_handed_over(open_key: Open, ada: User, bob: User) -> None:
    page = open_key(bob)
    button(page, "Hand over").click()
    form = dialog(page, "Hand over API key")
    form.get_by_label("New owner").select_option("ada")
    button(form, "Hand over").click()
    expect(part(page, "About")).to_contain_text("ada")
    expect(part(page, "About").get_by_role("button")).to_have_count(0)


def test_expiry_is_set_and_removed(open_key: Open, bob: User) -> None:
    page = open_key(bob)
    button(page, "Change the expiry").click()
    form = dialog(page, "Expiry")
    expect(form.get_by_label("Last day, UTC")).to_be_hidden()
    form.get_by_label("Expires").select_option("date")
    day = timezone.now().date() + timedelta(days=20)
    form.get_by_label("Last day, UTC").fill(str(day))
    button(form, "Save").click()
    expect(page.locator(".badge")).to_have_text([f"Expires {day}"])
    button(page, "Change the expiry").click()
    form.get_by_label("Expires").select_option("7")
    button(form, "Save").click()
    expect(page.locator(".badge")).to_have_text(["Expires in 7 days"])
    button(page, "Change the expiry").click()
    form.get_by_label("Expires").select_option("never")
    button(form, "Save").click()
    expect(page.locator(".badge")).to_have_count(0)


def test_key_is_rotated_and_its_old_secret_revoked(
    open_key: Open, live: Server, bob: User, nightly: tuple[ApiKey, str]
) -> None:
    _, old = nightly
    page = open_key(bob)
    button(page, "Rotate").click()
    button(dialog(page, "Rotate API key"), "Rotate").click()
    dialog(page, "API key rotated")
    new = shown_key(page)
    for plaintext in (old, new):
        assert live.request("GET", "/v1/models", key=plaintext).status == 200
    button(dialog(page), "Done").click()
    expect(button(page, "Rotate")).to_be_focused()
    assert not contains_key_string(page, new)
    expect(part(page, "Secrets")).to_contain_text(new[-4:])
    expect(part(page, "Secrets")).to_contain_text(old[-4:])
    button(page, "Rotate").click()
    form = dialog(page, "Rotate API key")
    form.get_by_label("For an hour").check()
    button(form, "Rotate").click()
    expect(form.get_by_role("alert")).to_contain_text("already has two secrets")
    button(form, "Cancel").click()
    button(page, "End the old secret").click()
    button(dialog(page, "End the old secret"), "End now").click()
    expect(part(page, "Secret")).not_to_contain_text(old[-4:])
    assert live.request("GET", "/v1/models", key=old).code == "invalid_api_key"
    assert live.request("GET", "/v1/models", key=new).status == 200


def test_leaked_key_is_rotated_at_once(open_key: Open, bob: User) -> None:
    ApiKey.objects.update(reported_at=timezone.now())
    page = open_key(bob)
    button(page, "Rotate now").click()
    form = dialog(page, "Rotate API key")
    expect(form.get_by_label("Not at all: it stops working now")).to_be_checked()
    button(form, "Rotate").click()
    expect(page.locator("#rotated")).to_contain_text("The old secret no longer works.")
    button(dialog(page), "Done").click()
    # Nothing asks for it again: a second rotation would end the new secret.
    expect(page.locator(".message")).to_have_count(1)  # The empty notice.
    expect(page.get_by_text("Rotate it now")).to_have_count(0)
    assert Secret.objects.count() == 1


@pytest.mark.parametrize("has_scripts", [True, False])
def test_leaked_key_is_enabled_only_after_a_warning(
    open_key: Open, live: Server, bob: User, nightly: tuple[ApiKey, str], has_scripts: bool
) -> None:
    _, old = nightly
    handling.handle_report(ReportContents([ReportedKey(old)]))
    page = open_key(bob, java_script_enabled=has_scripts)
    button(page, "Enable anyway").click()
    place = dialog(page, "Enable API key") if has_scripts else page.locator("#enable")
    expect(place).to_contain_text("anyone who has this secret can make calls")
    button(place, "Rotate instead").click()
    place = dialog(page, "Rotate API key") if has_scripts else page.locator("#rotate")
    expect(place.get_by_label("Not at all: it stops working now")).to_be_checked()
    button(place, "Cancel").click()
    assert live.request("GET", "/v1/models", key=old).code == "invalid_api_key"
    button(page, "Enable anyway").click()
    button(page.locator("#enable"), "Enable anyway").click()
    expect(button(page, "Disable")).to_be_visible()
    assert live.request("GET", "/v1/models", key=old).status == 200
    expect(page.get_by_text("This key was reported as leaked")).to_be_visible()


def test_outdated_page_asks_before_it_enables_a_leaked_key(
    open_key: Open, live: Server, bob: User, nightly: tuple[ApiKey, str]
) -> None:
    key, text = nightly
    disable(key, actor=bob)
    page = open_key(bob)
    handling.handle_report(ReportContents([ReportedKey(text)]))
    button(page, "Enable").click()
    expect(dialog(page, "Enable API key")).to_contain_text("was reported as leaked")
    expect(button(dialog(page), "Rotate instead")).to_be_focused()
    assert ApiKey.objects.get().disabled_at is not None
    button(dialog(page), "Cancel").click()
    expect(button(page, "Enable")).to_be_focused()


def test_deletion_shows_what_stops_and_leaves_a_receipt(
    open_key: Open, team: Team, bob: User, nightly: tuple[ApiKey, str]
) -> None:
    now = timezone.now()
    of_it = {"team_slug": team.slug, "public_id": nightly[0].public_id, "model": "public/small"}
    UsageHour.objects.create(owner_id=7, start=Step.HOUR.floor(now), requests=1234, **of_it)
    UsageDay.objects.create(owner_id=7, start=Step.DAY.floor(now), requests=1234, **of_it)
    page = open_key(bob)
    expect(part(page, "Usage last 14 days")).to_contain_text("1,234 requests")
    drawn = "Object.values(Chart.instances).map(c => c.data.datasets[0].data.at(-1))"
    assert page.evaluate(drawn) == [1234]
    button(page, "Delete").click()
    question = dialog(page, "Delete API key")
    expect(question).to_contain_text("1,234 calls used this key in the last 24 hours.")
    expect(question).to_contain_text("public/small")
    assert page.evaluate(drawn) == [1234]
    button(question, "Delete").click()
    expect(page.locator("#receipt")).to_contain_text("nightly was deleted")
    expect(page.locator("#gone")).to_be_visible()
    expect(link(page.locator("main"), "See the receipt")).to_be_visible()
    button(page.locator("#gone"), "Close").click()
    page.wait_for_url(f"**{KEYS}*")


def test_without_javascript_all_of_it_works(open_key: Open, ada: User, bob: User) -> None:
    page = open_key(bob, java_script_enabled=False)
    said = page.get_by_role("status")
    button(page, "Edit").click()
    page.get_by_label("Name").fill("weekly")
    button(page, "Save").click()
    expect(said).to_contain_text(["The key weekly is changed."])
    button(page, "Change the permissions").click()
    page.get_by_label("Read-only").check()
    button(page, "Save").click()
    expect(said).to_contain_text(["The permissions of weekly are changed."])
    button(page, "Change the expiry").click()
    page.get_by_label("Expires").select_option("30")
    button(page, "Save").click()
    expect(said).to_contain_text(["The key weekly expires on"])
    button(page, "Disable").click()
    button(page, "Disable").click()
    button(page, "Enable").click()
    expect(said).to_contain_text(["The key weekly is enabled."])
    button(page, "Rotate").click()
    button(page, "Rotate").click()
    assert shown_key(page).startswith("sk-kp-")
    button(page, "Done").click()
    button(page, "End the old secret").click()
    button(page, "End now").click()
    expect(said).to_contain_text(["The old secret of weekly no longer works."])
    button(page, "Hand over").click()
    page.get_by_label("New owner").select_option("ada")
    button(page, "Hand over").click()
    expect(said).to_contain_text(["ada now owns the key weekly."])

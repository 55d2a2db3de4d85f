"""Every page and dialog, wide and narrow: nothing sticks out, and axe finds nothing."""

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from keyportal.audit.models import Tombstone
from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey, KeyTemplate, Secret
from keyportal.keys.programs import device_flow
from keyportal.keys.rotation import GracePeriod, rotate
from keyportal.keys.rules.permissions import Permissions
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.policy import Policy
from keyportal.usage.models import Call, RunningCalls, UsageDay, UsageHour
from keyportal.usage.reports.periods import Step
from tests.browser.conftest import KEYS
from tests.support.looks import (
    SIZES,
    assert_axe_finds_nothing,
    assert_dialog_fits,
    assert_page_fits_and_axe_finds_nothing,
    clipped,
    sizes_of,
    sticks_out,
)
from tests.support.pages import button, create, dialog, row

pytestmark = pytest.mark.browser
TEAM = "/teams/u-8105f7322477"
PAGES = [
    f"{KEYS}?q=nothing-is-called-that",
    f"{KEYS}create/",
    f"{TEAM}/models/",
    f"{TEAM}/usage/",
    f"{TEAM}/usage/?range=custom&by=model",
    f"{TEAM}/calls/",
    f"{TEAM}/running/",
    f"{TEAM}/members/invite/",
    f"{TEAM}/members/leave/",
    f"{TEAM}/service-accounts/",
    f"{TEAM}/service-accounts/create/",
    f"{TEAM}/settings/",
    f"{TEAM}/settings/slug/",
    f"{TEAM}/settings/off/",
    f"{TEAM}/settings/delete/",
    f"{TEAM}/limits/",
    f"{TEAM}/policy/",
    f"{TEAM}/templates/",
    f"{TEAM}/templates/create/",
    f"{TEAM}/health/",
    f"{KEYS}bulk/delete/",
    f"{TEAM}/audit/",
    f"{TEAM}/guide/",
    "/accounts/password/change/",
    "/device/",
    "/accounts/logout/",
    "/teams/no-such-team/keys/",
]
FOR_STRANGERS = [
    "/accounts/login/",
    "/accounts/password/reset/",
    "/accounts/password/reset/done/",
    "/invitations/forged/",
    "/leaks/report",
    "/.well-known/api-key-format",
]
LONGEST = "x" * 64
RECEIPT = f"{KEYS}AbCd1234/receipt/"
Open = Callable[..., Page]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def history(team: Team) -> None:
    """What fills the pages of usage: figures, calls, and one that is running; a deleted key."""
    now = timezone.now()
    user = User.objects.create_user("o" * 150)
    what = {"team_slug": team.slug, "public_id": "AbCd1234", "owner_id": user.pk}
    UsageDay.objects.create(
        start=Step.DAY.floor(now),
        model="m" * 200,
        requests=10**9,
        failures=7,
        latency_2=10**9,
        prompt_tokens=10**12,
        completion_tokens=10**12,
        cached_tokens=10**12,
        estimated_requests=3,
        **what,
    )
    for status in (200, 429, 500):
        Call.objects.create(
            started_at=now,
            model="m" * 200,
            endpoint="/v1/chat/completions",
            status=status,
            is_estimated=True,
            cached_tokens=10**9,
            cache_write_tokens=10**9,
            cache_write_1h_tokens=10**8,
            reasoning_tokens=10**9,
            image_completion_tokens=10**9,
            service_tier="x" * 20,
            duration_ms=10**6,
            first_byte_ms=10**6,
            user_agent="a" * 200,
            address="2001:db8:85a3:1319:1111:8a2e:1370:7334",
            **what,
        )
    call = {"id": "c" * 32, "model": "m" * 200, "endpoint": "/v1/chat/completions", "tokens": 9}
    call |= {"seconds": 0, "address": "2001:db8:85a3:1319:1111:8a2e:1370:7334"} | what
    RunningCalls.objects.create(
        worker="w", team_slug=team.slug, calls=[call], written_at=now + timedelta(hours=1)
    )
    Tombstone.objects.create(
        digest=b"x" * 32,
        public_id="AbCd1234",
        name=LONGEST,
        team_slug=team.slug,
        owner_id=user.pk,
        deleted_by_id=user.pk,
        last_used_at=now,
        last_used_user_agent="a" * 200,
        last_refused_at=now,
    )


OF_A_KEY = (
    "",
    "delete/",
    "limits/",
    "permissions/",
    "edit/",
    "expiry/",
    "hand-over/",
    "disable/",
    "enable/",
    "rotate/",
    "end-old/",
)


@pytest.fixture
def full_key(alice: User, issue: Issue) -> ApiKey:
    """One with the longest of everything, while it is rotated."""
    key, _ = issue(
        alice,
        LONGEST,
        description="d" * 500,
        tags=["t" * 32 for _ in range(10)],
        permissions=Permissions(
            ("m" * 200, "public/*"), networks=("2001:db8:85a3:1319:1111:8a2e:1370:7334/128",)
        ),
        limits=Limits(tokens_per_month=10**15, parallel_requests=2),
    )
    rotate(key, GracePeriod.WEEK, actor=alice)
    now = timezone.now()
    Secret.objects.update(
        last_used_at=now,
        last_used_address="2001:db8:85a3:1319:1111:8a2e:1370:7334",
        last_used_user_agent="a" * 200,
    )
    ApiKey.objects.filter(pk=key.pk).update(
        reported_at=now, disabled_at=now, expires_at=now, disabled_by="leak"
    )
    what = {"public_id": key.public_id, "team_slug": key.team.slug, "model": "m" * 200}
    UsageDay.objects.create(owner_id=7, start=Step.DAY.floor(now), requests=10**12, **what)
    UsageHour.objects.create(owner_id=7, start=Step.HOUR.floor(now), requests=10**12, **what)
    Call.objects.create(
        owner_id=7,
        started_at=now,
        status=200,
        duration_ms=1,
        user_agent="a" * 200,
        address="2001:db8:85a3:1319:1111:8a2e:1370:7334",
        **what,
    )
    return key


def be_strict(team: Team) -> None:
    """A policy that no key keeps, and a template that breaks it too."""
    policy = Policy(max_lifetime_days=1, models=("m" * 200,), endpoints=("chat",), rotation_days=1)
    Team.objects.filter(pk=team.pk).update(policy=policy)
    networks = ["2001:db8:ffff:ffff::/64"]
    KeyTemplate.objects.create(
        team=team, name=LONGEST, allowed_models=["x" * 200], allowed_networks=networks
    )


def test_the_longest_names_fit_in_the_list_and_its_dialogs(
    open_keys: Open, alice: User, issue: Issue
) -> None:
    """Of a key, a person and a team; also when the key leaked."""
    User.objects.filter(pk=alice.pk).update(username="v" * 120)
    key, _ = issue(alice, LONGEST)
    Team.objects.filter(pk=key.team_id).update(name="W" * 100)
    page = open_keys(alice)
    for size in sizes_of(page, KEYS):
        _assert_list_and_dialogs_fit(page, f"{size['width']:y<64}")
    ApiKey.objects.filter(pk=key.pk).update(reported_at=key.created_at)
    for _ in sizes_of(page, KEYS):
        expect(button(page, "Rotate it now")).to_be_in_viewport(ratio=1)
        assert not sticks_out(page)
        assert clipped(page, ".leaked") == []


def _assert_list_and_dialogs_fit(page: Page, new_name: str) -> None:
    for name in ("Create", "Refresh", "Delete"):
        expect(button(row(page, LONGEST) if name == "Delete" else page, name)).to_be_in_viewport(
            ratio=1
        )
    button(row(page, LONGEST), "Delete").click()
    assert_dialog_fits(page, "Delete API key")
    expect(button(dialog(page), "Delete")).to_be_in_viewport(ratio=1)
    page.keyboard.press("Escape")
    button(row(page, LONGEST), "Limits").click()
    dialog(page, "Limits")
    assert clipped(page, "dialog") == []
    page.keyboard.press("Escape")
    create(page, new_name)
    assert_dialog_fits(page, "API key created")
    expect(button(page, "Copy")).to_be_in_viewport(ratio=1)
    page.goto(KEYS)


def test_the_longest_team_and_user_names_fit_beside_everything_else(
    open_keys: Open, team: Team, issue: Issue
) -> None:
    Team.objects.filter(pk=team.pk).update(name="W" * 100)
    longest = User.objects.create_user("v" * 120)
    for number in range(32):
        Team.objects.create(name=f"Team {number}", slug=f"team-{number}")
    Membership.objects.bulk_create(
        Membership(team=each, user=longest, role=Role.OWNER) for each in Team.objects.all()
    )
    issue(longest, "nightly")
    page = open_keys(longest)
    for _ in sizes_of(page, KEYS):
        assert not sticks_out(page)
        for name in ("Create", "Refresh", "Delete", "Theme: automatic"):
            expect(button(page, name)).to_be_in_viewport(ratio=1)
        expect(page.locator(".brand img")).to_be_in_viewport(ratio=1)
        expect(page.locator(".menu.right summary")).to_be_in_viewport(ratio=1)
        assert clipped(page, ".scroll") == []
        page.locator("summary", has_text="WWW").click()
        expect(page.get_by_role("navigation", name="Teams")).to_be_in_viewport(ratio=1)
        page.locator("summary", has_text="WWW").click()
    for _ in sizes_of(page, f"{TEAM}/audit/"):
        assert not sticks_out(page)
        assert page.locator("tbody tr").first.evaluate("row => row.offsetHeight") < 400
        assert clipped(page, ".scroll") == []


def test_the_longest_of_everything_fits_on_the_page_of_a_key(
    new_page: Open, alice: User, ada: User, model: ServedModel, full_key: ApiKey
) -> None:
    page = new_page(alice)
    for _ in sizes_of(page, f"{KEYS}{full_key.public_id}/"):
        for name in ("Edit", "Rotate", "Enable anyway", "Delete"):
            expect(button(page, name)).to_be_in_viewport(ratio=1)
        assert clipped(page, "#key .card:not(.list)") == []
        for opener, name in (
            ("Change the permissions", "Permissions"),
            ("Rotate", "Rotate API key"),
            ("Enable anyway", "Enable API key"),
            ("Delete", "Delete API key"),
        ):
            button(page, opener).click()
            dialog(page, name)
            assert clipped(page, "dialog") == []
            page.keyboard.press("Escape")


def test_pages_of_strangers_fit_and_axe_finds_nothing(looked_at: Open) -> None:
    page = looked_at()
    for path in FOR_STRANGERS:
        assert_page_fits_and_axe_finds_nothing(page, path)


def test_pages_of_a_team_fit_and_axe_finds_nothing(
    looked_at: Open,
    alice: User,
    other_team: Team,
    issue: Issue,
    model: ServedModel,
    history: None,
) -> None:
    """With the longest names of a key, a person and a team. The members have their own test."""
    User.objects.filter(pk=alice.pk).update(username="v" * 120)
    key, _ = issue(alice, LONGEST)
    Team.objects.filter(pk=key.team_id).update(name="W" * 100)
    Membership.objects.create(team=other_team, user=alice, role=Role.VIEWER)
    be_strict(key.team)
    page = looked_at(alice)
    for path in (
        KEYS,
        *PAGES,
        "/teams/u-0000000000cc/keys/",  # As a viewer.
        f"{KEYS}bulk/disable/?keys={key.public_id}",
        RECEIPT,
    ):
        assert_page_fits_and_axe_finds_nothing(page, path)


def test_the_pages_of_a_call_and_of_a_program_that_asks_fit_and_axe_finds_nothing(
    looked_at: Open, alice: User, team: Team, history: None
) -> None:
    Team.objects.filter(pk=team.pk).update(name="W" * 100)
    attempts = [["u" * 200, "m" * 200, "UpstreamFailed", 10**7]] * 3
    call = Call.objects.filter(status=500).get()
    call.error_code, call.error_message = "c" * 64, "e" * 500
    call.attempts = json.dumps(attempts)
    call.save(update_fields=["error_code", "error_message", "attempts"])
    codes = device_flow.begin("n" * 40, "2001:db8:1111:2222:3333:4444:5555:6666")
    page = looked_at(alice)
    assert_page_fits_and_axe_finds_nothing(page, f"{TEAM}/calls/{call.pk}/")
    page.goto(f"/device/?code={codes.user_code}")
    button(page, "Continue").click()
    expect(button(page, "Let it in")).to_be_visible()
    for size in SIZES:
        page.set_viewport_size(size)
        assert not sticks_out(page), size
    assert_axe_finds_nothing(page)


def test_pages_of_a_key_fit_and_axe_finds_nothing(
    looked_at: Open, alice: User, ada: User, model: ServedModel, full_key: ApiKey
) -> None:
    Team.objects.filter(pk=full_key.team_id).update(limits=Limits(tokens_per_day=5))
    page = looked_at(alice)
    for path in OF_A_KEY:
        assert_page_fits_and_axe_finds_nothing(page, f"{KEYS}{full_key.public_id}/{path}")
    page.goto(f"{KEYS}{full_key.public_id}/")
    for summary in page.locator(".chart summary").all():
        summary.click()
    assert_axe_finds_nothing(page, ".chart")
    page.goto(f"{KEYS}{full_key.public_id}/permissions/")
    page.get_by_label("Allowed networks").fill("nowhere")
    button(page, "Save").click()
    expect(page.locator("#id_networks_error")).to_be_visible()
    assert_axe_finds_nothing(page, "main")


def test_axe_finds_nothing_in_the_list_and_its_dialogs(
    looked_at: Open, alice: User, issue: Issue, model: ServedModel
) -> None:
    key, _ = issue(alice, "nightly")
    then = key.created_at
    ApiKey.objects.update(disabled_at=then, expires_at=then, reported_at=then, disabled_by="leak")
    Secret.objects.update(last_used_at=key.created_at, last_used_address="192.0.2.7")
    page = looked_at(alice)
    page.goto(KEYS)
    page.locator("summary", has_text="alice").click()
    assert_axe_finds_nothing(page)
    page.keyboard.press("Escape")
    page.get_by_label("Select nightly").check()
    button(page, "Disable selected").click()
    dialog(page, "Disable 1 API key")
    assert_axe_finds_nothing(page, "dialog")
    page.keyboard.press("Escape")
    button(row(page, "nightly"), "Delete").click()
    dialog(page, "Delete API key")
    assert_axe_finds_nothing(page, "dialog")
    page.keyboard.press("Escape")
    button(row(page, "nightly"), "Limits").click()
    dialog(page, "Limits").get_by_label("Tokens per day").fill("-1")
    button(dialog(page), "Save").click()
    expect(dialog(page).get_by_role("alert")).to_be_visible()
    assert_axe_finds_nothing(page, "dialog")
    page.keyboard.press("Escape")
    button(page, "Create").click()
    dialog(page, "Create API key").get_by_text("More options", exact=True).click()
    button(dialog(page), "OK").click()
    expect(dialog(page).get_by_role("alert")).to_be_visible()
    assert_axe_finds_nothing(page, "dialog")
    page.keyboard.press("Escape")
    create(page, "test-key")
    dialog(page, "API key created")
    assert_axe_finds_nothing(page, "dialog")

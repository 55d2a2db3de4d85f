"""The Health page: which keys need attention, and why."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import resolve
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from keyportal.audit.models import Tombstone
from keyportal.catalog.models import ServedModel
from keyportal.keys.health import ACTIONS, FIXES, Finding
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import GracePeriod, rotate
from keyportal.keys.views.health import health_report
from keyportal.teams.models import Membership, Team, User
from keyportal.teams.policy import Policy
from keyportal.usage import new_networks as addresses
from keyportal.usage.models import Call, NetworkUse, UsageDay
from keyportal.usage.new_networks import new_networks
from keyportal.usage.reports.periods import Step
from tests.keys.views.test_list import fill

HEALTH = "/teams/u-8105f7322477/health/"
KEYS = "/teams/u-8105f7322477/keys/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def ago(days: float) -> Any:
    return timezone.now() - timedelta(days=days)


@pytest.fixture
def good(bob: User, issue: Issue) -> ApiKey:
    """A key with nothing to find: used now, made long ago, and it ends."""
    key, _ = issue(bob, "good", expires_at=ago(-30))
    ApiKey.objects.update(created_at=ago(200))
    Secret.objects.update(last_used_at=ago(0), created_at=ago(200))
    return key


def found(team: Team) -> set[str]:
    """What is found of the only key of the team."""
    page = health_report(team, ApiKey.objects.for_team(team), "", None)
    labels = dict(zip(Finding.labels, Finding.values, strict=True))
    return {labels[issue.label] for row in page.rows for issue in row.issues}


def use(team: Team, key: ApiKey, *models: str, days: float = 1) -> None:
    for model in models:
        UsageDay.objects.create(
            owner_id=7,
            start=Step.DAY.floor(ago(days)),
            team_slug=team.slug,
            public_id=key.public_id,
            model=model,
            requests=1,
        )


def call(team: Team, public_id: str, address: str | None, days: float) -> None:
    Call.objects.create(
        owner_id=7,
        started_at=ago(days),
        team_slug=team.slug,
        public_id=public_id,
        address=address,
        status=200,
        duration_ms=1,
    )


@pytest.mark.any_database
def test_healthy_key_has_no_findings(sign_in: SignIn, ada: User, team: Team, good: ApiKey) -> None:
    assert found(team) == set()
    assert "No findings." in sign_in(ada).get(HEALTH).content.decode()


def test_unused_key_is_idle(team: Team, good: ApiKey) -> None:
    Secret.objects.update(last_used_at=ago(89))
    assert found(team) == set()
    Secret.objects.update(last_used_at=ago(91))
    assert found(team) == {"idle"}
    Secret.objects.update(last_used_at=None)
    assert found(team) == {"idle"}
    ApiKey.objects.update(created_at=ago(89))
    assert found(team) == set()


@pytest.mark.any_database
def test_rotation_does_not_make_a_used_key_idle(team: Team, bob: User, good: ApiKey) -> None:
    """Its new secret was not used yet; the one that it had was."""
    rotate(good, GracePeriod.NOW, actor=bob)
    assert found(team) == set()
    Tombstone.objects.update(last_used_at=ago(91))
    assert found(team) == {"idle"}


@pytest.mark.any_database
def test_refused_key_is_not_idle(team: Team, good: ApiKey) -> None:
    Secret.objects.update(last_used_at=ago(91))
    ApiKey.objects.update(disabled_at=ago(0), disabled_by="owner")
    assert found(team) == set()


@pytest.mark.any_database
def test_each_finding_has_existing_actions() -> None:
    for finding in Finding:
        actions = ACTIONS.get(finding, tuple(FIXES.values()))
        assert actions, finding
        for action in actions:
            assert resolve(f"{KEYS}7QmX2aPd/{action.path}").url_name


@pytest.mark.any_database
def test_key_of_a_former_member_can_be_rotated_or_handed_over(
    sign_in: SignIn, ada: User, bob: User, team: Team, good: ApiKey
) -> None:
    Membership.objects.filter(user=bob).delete()
    (row,) = health_report(team, ApiKey.objects.for_team(team), "owner-left", None).rows
    assert [action.label for action in row.issues[0].actions] == ["Hand over", "Rotate", "Delete"]
    text = sign_in(ada).get(f"/teams/{team.slug}/keys/{good.public_id}/hand-over/").content.decode()
    assert "bob</span> may still have the key" in text


@pytest.mark.any_database
def test_key_without_expiry_is_found_until_it_is_disabled(team: Team, good: ApiKey) -> None:
    ApiKey.objects.update(expires_at=None)
    assert found(team) == {"never-expires"}
    ApiKey.objects.update(disabled_at=ago(0), disabled_by="owner")
    assert found(team) == set()


def test_old_secret_is_found_by_the_rotation_age_of_the_policy(
    team: Team, bob: User, good: ApiKey
) -> None:
    team.policy = Policy(rotation_days=201)
    assert found(team) == set()
    team.policy = Policy(rotation_days=199)
    assert found(team) == {"rotation-due"}
    Secret.objects.create(key=good, digest=b"y" * 32, prefix="sk-kp-", last4="abcd")
    assert found(team) == set()


@pytest.mark.any_database
def test_key_of_a_former_or_inactive_member_is_found(team: Team, bob: User, good: ApiKey) -> None:
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert found(team) == {"owner-left"}
    User.objects.filter(pk=bob.pk).update(is_active=True)
    assert found(team) == set()
    Membership.objects.filter(user=bob).delete()
    assert found(team) == {"owner-left"}


@pytest.mark.any_database
def test_reported_leak_is_found_in_a_disabled_key(team: Team, good: ApiKey) -> None:
    ApiKey.objects.update(reported_at=ago(1), disabled_at=ago(1), disabled_by="leak")
    assert found(team) == {"reported"}


@pytest.mark.any_database
def test_policy_violation_is_found_with_the_action_that_fixes_it(team: Team, good: ApiKey) -> None:
    team.policy = Policy(max_lifetime_days=7, models=("public/*",), name_pattern="ci-*")
    (row,) = health_report(team, ApiKey.objects.for_team(team), "breaks-policy", None).rows
    (issue,) = row.issues
    assert issue.detail == (
        "Keys of this team must expire within 7 days. Keys of this team may only call: public/*. "
        "Names of keys in this team must match ci-*."
    )
    assert [action.label for action in issue.actions] == ["Set expiry", "Narrow", "Open"]


def test_allowed_models_that_are_not_called_are_found(
    team: Team, good: ApiKey, model: ServedModel
) -> None:
    """One that the key calls, one that the team can't call, and one that is too much."""
    for name in ("public/large", "public/small"):
        served = ServedModel.objects.create(name=name)
        served.routes.create(upstream=model.routes.get().upstream, upstream_model="x")
    ServedModel.objects.create(name="public/without-a-route")
    assert found(team) == set()  # It calls nothing, which is not too much of anything.
    use(team, good, "public/small", "no-model-any-more", "")
    (row,) = health_report(team, ApiKey.objects.for_team(team), "too-wide", None).rows
    assert row.issues[0].detail == "Not called in 90 days: public/large, u-8105f7322477/test."
    good.allowed_models = ["public/s*"]
    good.save(update_fields=["allowed_models"])
    assert found(team) == set()
    good.allowed_models = ["public/*"]
    good.save(update_fields=["allowed_models"])
    assert found(team) == {"too-wide"}
    use(team, good, "public/large", days=91)
    assert found(team) == {"too-wide"}
    use(team, good, "public/large", days=80)
    assert found(team) == set()


@pytest.mark.any_database
def test_new_key_is_not_checked_for_uncalled_models(
    team: Team, good: ApiKey, model: ServedModel
) -> None:
    use(team, good, "another")
    assert found(team) == {"too-wide"}
    ApiKey.objects.update(created_at=ago(6))
    assert found(team) == set()


# Addresses.


def test_network_that_was_not_seen_before_is_found(team: Team, good: ApiKey) -> None:
    call(team, good.public_id, "192.0.2.7", 3)
    call(team, good.public_id, "192.0.2.99", 0.1)
    assert found(team) == set()
    call(team, good.public_id, "198.51.100.1", 0.1)
    call(team, good.public_id, "2001:db8:1:ffff::1", 0.2)
    (row,) = health_report(team, ApiKey.objects.for_team(team), "new-address", None).rows
    assert row.issues[0].detail == (
        "First used from 198.51.100.0/24, 2001:db8:1::/48 within the last day."
    )
    call(team, good.public_id, "198.51.100.77", 2)
    call(team, good.public_id, "2001:db8:1::9", 2)
    assert found(team) == set()


@pytest.mark.any_database
def test_networks_of_first_calls_are_not_new(team: Team, other_team: Team, good: ApiKey) -> None:
    call(team, good.public_id, "192.0.2.7", 0.2)
    call(team, good.public_id, "198.51.100.1", 0.1)
    call(team, good.public_id, None, 3)
    call(team, "Another1", "203.0.113.1", 3)
    call(other_team, good.public_id, "203.0.113.1", 3)
    assert new_networks(team, timezone.now()) == {}


def look(team: Team, public_id: str, network: str, days: float) -> None:
    start = Step.DAY.floor(ago(days))
    NetworkUse.objects.create(
        team_slug=team.slug,
        public_id=public_id,
        network=network,
        start=start,
        first_used_at=ago(days),
    )


def test_listing_models_from_a_new_network_is_found(
    team: Team, other_team: Team, good: ApiKey
) -> None:
    """Whoever verifies a key that they found calls nothing with it."""
    call(team, good.public_id, "192.0.2.7", 3)
    look(team, good.public_id, "192.0.2.0/24", 0.1)
    look(team, "Another1", "203.0.113.0/24", 0.1)
    look(other_team, good.public_id, "203.0.113.0/24", 0.1)
    assert new_networks(team, timezone.now()) == {}
    look(team, good.public_id, "198.51.100.0/24", 0.1)
    assert new_networks(team, timezone.now()) == {good.public_id: ["198.51.100.0/24"]}
    assert found(team) == {"new-address"}


@pytest.mark.any_database
def test_network_that_listed_models_before_is_not_new(team: Team, good: ApiKey) -> None:
    look(team, good.public_id, "192.0.2.0/24", 3)
    call(team, good.public_id, "192.0.2.7", 0.1)
    assert new_networks(team, timezone.now()) == {}
    call(team, good.public_id, "198.51.100.7", 0.1)
    assert new_networks(team, timezone.now()) == {good.public_id: ["198.51.100.0/24"]}
    look(team, good.public_id, "198.51.100.0/24", 2)
    assert new_networks(team, timezone.now()) == {}


def test_only_the_newest_calls_of_a_busy_team_are_checked(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "MAX_ROWS_SEARCHED", 4)
    call(team, "Busy1234", "203.0.113.1", 0.9)  # Too long ago by now.
    for minutes in (40, 30, 20, 10):
        call(team, "Busy1234", "192.0.2.1", minutes / 1440)
    assert new_networks(team, timezone.now()) == {}
    call(team, "Busy1234", "198.51.100.1", 0)
    assert new_networks(team, timezone.now()) == {"Busy1234": ["198.51.100.0/24"]}


# The page.


@pytest.mark.any_database
def test_page_shows_findings_with_their_actions(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, "<b>nightly")
    ApiKey.objects.update(reported_at=ago(0))
    client = sign_in(ada)
    page, fragment = client.get(HEALTH), client.get(HEALTH, headers=HTMX)
    assert page.content.lstrip().startswith(b"<!doctype html>")
    assert fragment.content.lstrip().startswith(b'<section id="health"')
    for response in (page, fragment):
        text = response.content.decode()
        assert "HX-Request" in response["Vary"]
        for expected in ("&lt;b&gt;nightly", key.masked, "Reported as leaked", "Never expires"):
            assert expected in text
        for action in ("rotate", "delete", "expiry"):
            assert f'action="{KEYS}{key.public_id}/{action}/"' in text


@pytest.mark.any_database
def test_page_can_be_filtered_by_finding(
    sign_in: SignIn, ada: User, bob: User, good: ApiKey, issue: Issue
) -> None:
    issue(bob, "endless")
    client = sign_in(ada)
    of_endless = client.get(HEALTH, {"finding": "never-expires"}).content.decode()
    assert "endless" in of_endless
    none = client.get(HEALTH, {"finding": "reported"}).content.decode()
    assert "No keys have this finding." in none
    assert "endless" in client.get(HEALTH, {"finding": "REPORTED"}).content.decode()


@pytest.mark.any_database
def test_members_see_only_their_own_keys(
    sign_in: SignIn, alice: User, bob: User, issue: Issue
) -> None:
    issue(alice, "of-alice")
    issue(bob, "of-bob")
    text = sign_in(bob).get(HEALTH).content.decode()
    assert "of-bob" in text
    assert "of-alice" not in text
    assert "1–1 of 1" in text


def test_most_urgent_findings_come_first(team: Team, bob: User, issue: Issue) -> None:
    for name in ("endless", "leaked", "newer"):
        issue(bob, name)
    ApiKey.objects.filter(name="leaked").update(reported_at=ago(0))
    page = health_report(team, ApiKey.objects.for_team(team), "", None)
    assert [row.key.name for row in page.rows] == ["leaked", "newer", "endless"]
    assert [(tab.value, tab.size) for tab in page.tabs] == [
        ("", 3),
        ("reported", 1),
        ("never-expires", 3),
    ]


@pytest.mark.any_database
def test_keys_of_other_teams_are_not_checked(
    team: Team, other_team: Team, charlie: User, issue: Issue
) -> None:
    issue(charlie, "theirs", team=other_team)
    assert health_report(team, ApiKey.objects.for_team(team), "", None).rows == []


@pytest.mark.any_database
def test_long_list_is_paginated(sign_in: SignIn, ada: User, bob: User, team: Team) -> None:
    fill(team, bob, 27)
    client = sign_in(ada)
    assert "1–25 of 27" in client.get(HEALTH).content.decode()
    assert "26–27 of 27" in client.get(HEALTH, {"page": "99"}).content.decode()


@pytest.mark.any_database
def test_query_count_does_not_depend_on_number_of_keys(
    sign_in: SignIn,
    ada: User,
    bob: User,
    team: Team,
    issue: Issue,
    model: ServedModel,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    Team.objects.update(
        policy=Policy(models=("public/*",), rotation_days=9, max_keys_per_member=99)
    )
    client = sign_in(ada)
    for number in range(8):
        key, _ = issue(bob, f"key-{number}")
        use(team, key, "public/x")
        call(team, key.public_id, "192.0.2.1", 3)
        call(team, key.public_id, "198.51.100.1", 0)
        if number in (0, 7):
            with django_assert_max_num_queries(22):
                client.get(HEALTH)


@pytest.mark.any_database
def test_viewer_is_refused_with_the_reason(sign_in: SignIn, vera: User) -> None:
    response = sign_in(vera).get(HEALTH)
    assert response.status_code == 403
    assert "This needs the role Member" in response.content.decode()
    assert HEALTH not in sign_in(vera).get(KEYS).content.decode()

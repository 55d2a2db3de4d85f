"""The page of a key: what everyone in the team sees, and what only some see."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.changes import Changes, change_key
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import GracePeriod, rotate
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.keys.status import badges
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from keyportal.usage.models import Kind, UsageDay, Window, window_start
from keyportal.usage.reports.periods import Step

pytestmark = pytest.mark.any_database

KEYS = "/teams/u-8105f7322477/keys/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def address(key: ApiKey) -> str:
    return f"{KEYS}{key.public_id}/"


def page_of(client: Client, key: ApiKey) -> str:
    response = client.get(address(key))
    assert response.status_code == 200
    return response.content.decode()


def test_every_role_sees_the_details_of_a_key(
    sign_in: SignIn, vera: User, bob: User, issue: Issue
) -> None:
    key, plaintext = issue(
        bob,
        "<b>nightly",
        description="<i>Runs</i> at\nnight",
        tags=["<u>ci"],
        permissions=Permissions(("public/*", "u/x"), Endpoints.CHAT, ("192.0.2.0/24",)),
        expires_at=datetime(2199, 1, 31, 12, tzinfo=UTC),
    )
    Secret.objects.update(
        last_used_at="2026-11-23T22:45:10Z",
        last_used_address="10.1.2.3",
        last_used_user_agent="<s>curl",
    )
    client = sign_in(vera)
    page, fragment = client.get(address(key)), client.get(address(key), headers=HTMX)
    assert page.content.lstrip().startswith(b"<!doctype html>")
    assert fragment.content.lstrip().startswith(b'<div id="key"')
    for response in (page, fragment):
        text = response.content.decode()
        for expected in (
            *("&lt;b&gt;nightly", "&lt;i&gt;Runs&lt;/i&gt; at<br>night", "&lt;u&gt;ci"),
            *("bob", key.masked, "2199-01-31 12:00 UTC", "2026-11-23 22:45 UTC", "10.1.2.3"),
            *("&lt;s&gt;curl", "<code>public/*</code>", "<code>u/x</code>", "192.0.2.0/24"),
            *("Chat and text generation only", "Key created", "This key has no limits of its own"),
        ):
            assert expected in text
        assert plaintext not in text
        assert "no-store" in response["Cache-Control"]
        assert "HX-Request" in response["Vary"]


def test_actions_are_offered_only_to_those_who_may_change_the_key(
    sign_in: SignIn, alice: User, bob: User, vera: User, issue: Issue
) -> None:
    his, _ = issue(bob)
    for user, is_offered in ((alice, True), (bob, True), (vera, False)):
        text = page_of(sign_in(user), his)
        assert (f"{address(his)}limits/" in text) is is_offered
    hers, _ = issue(alice, "hers")
    assert f"{address(hers)}limits/" not in page_of(sign_in(bob), hers)


def test_ip_addresses_are_shown_only_to_those_who_may_change_the_key(
    sign_in: SignIn, bob: User, vera: User, issue: Issue
) -> None:
    key, _ = issue(bob, address="203.0.113.9")
    assert "203.0.113.9" in page_of(sign_in(bob), key)
    assert "203.0.113.9" not in page_of(sign_in(vera), key)


def test_key_of_another_team_is_not_found(
    sign_in: SignIn, alice: User, charlie: User, other_team: Team, issue: Issue
) -> None:
    foreign, _ = issue(charlie, "foreign", team=other_team)
    response = sign_in(alice).get(address(foreign))
    assert response.status_code == 404
    assert "Key not found" in response.content.decode()
    assert "foreign" not in response.content.decode()


def test_page_of_a_deleted_key_redirects_to_its_receipt(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, "<b>nightly")
    path = address(key)
    key.revoke(actor=bob)
    client = sign_in(bob)
    for response in (client.get(path), client.get(path, headers=HTMX)):
        assert response.status_code == 404
        assert f'href="{path}receipt/"' in response.content.decode()
        assert "&lt;b&gt;nightly" in response.content.decode()
        # It would make the page ask for itself again and again.
        assert "HX-Trigger" not in response


def test_receipt_of_another_team_is_not_shown(
    sign_in: SignIn, alice: User, charlie: User, other_team: Team, issue: Issue
) -> None:
    foreign, _ = issue(charlie, "foreign", team=other_team)
    path = address(foreign)
    foreign.revoke(actor=charlie)
    text = sign_in(alice).get(path).content.decode()
    assert "receipt/" not in text
    assert "foreign" not in text


def test_limits_are_shown_with_their_use(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, limits=Limits(requests_per_day=2000, parallel_requests=3))
    Window.objects.create(
        subject=f"key:{key.public_id}",
        kind=Kind.DAY,
        start=window_start(Kind.DAY, timezone.now()),
        requests=1234,
    )
    text = page_of(sign_in(bob), key)
    assert "1,234 of 2,000" in text
    assert "0 of 3" in text
    assert "Tokens per month" not in text
    tomorrow = Step.DAY.floor(timezone.now()) + timedelta(days=1)
    assert f'datetime="{tomorrow.isoformat()}"' in text


def test_usage_of_14_days_is_shown_as_chart_and_table(
    sign_in: SignIn, vera: User, bob: User, team: Team, other_team: Team, issue: Issue
) -> None:
    key, _ = issue(bob)
    client = sign_in(vera)
    assert "No calls in the last 14 days." in page_of(client, key)
    today = Step.DAY.floor(timezone.now())
    for ago, requests, slug, public_id in (
        (0, 1200, team.slug, key.public_id),
        (13, 34, team.slug, key.public_id),
        (14, 5, team.slug, key.public_id),
        (1, 7, other_team.slug, key.public_id),
        (1, 9, team.slug, "Other123"),
    ):
        UsageDay.objects.create(
            owner_id=7,
            start=today - timedelta(days=ago),
            team_slug=slug,
            public_id=public_id,
            requests=requests,
            prompt_tokens=10 * requests,
        )
    text = page_of(client, key)
    assert "<strong>1,234</strong> requests" in text
    assert "12,340 prompt tokens" in text
    assert f'<th scope="row">{today:%Y-%m-%d}</th><td>1,200</td><td>12,000</td>' in text
    assert text.count('<th scope="row">2') == 14
    assert '"requests": [34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1200]' in text


def test_history_omits_the_key_name_and_is_paginated(
    sign_in: SignIn, bob: User, team: Team, issue: Issue
) -> None:
    key, _ = issue(bob, "nightly")
    other, _ = issue(bob, "other")
    change_key(key, Changes(name="<b>weekly"), actor=bob)
    change_key(other, Changes(name="unrelated"), actor=bob)
    text = page_of(sign_in(bob), key)
    assert '<span class="name">Name: nightly → &lt;b&gt;weekly</span>' in text
    assert "unrelated" not in text
    for number in range(20):
        AuditEvent.objects.record(Action.KEY_CHANGED, key=key, target=f"#{number}", team=team)
    first, second = page_of(sign_in(bob), key), sign_in(bob).get(address(key), {"page": "2"})
    assert "1–20 of 22" in first
    assert "#0<" in first
    assert "Key created" in second.content.decode()
    assert "#0<" not in second.content.decode()


def test_both_secrets_are_shown_during_a_grace_period(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, plaintext = issue(bob)
    Secret.objects.update(last_used_at="2026-11-23T22:45:10Z", last_used_user_agent="<i>old-agent")
    new = rotate(key, GracePeriod.WEEK, actor=bob).text
    text = page_of(sign_in(bob), key)
    for last4 in (plaintext[-4:], new[-4:]):
        assert f"{key.public_id}…{last4}" in text
    assert "&lt;i&gt;old-agent" in text
    end = key.secrets.earliest("pk").expires_at
    assert end
    assert f"{end:%Y-%m-%d %H:%M} UTC" in text
    assert new not in text
    assert plaintext not in text


def test_expired_secret_is_not_shown(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, plaintext = issue(bob)
    rotate(key, GracePeriod.HOUR, actor=bob)
    an_hour_ago = timezone.now() - timedelta(hours=1)
    Secret.objects.filter(last4=plaintext[-4:]).update(expires_at=an_hour_ago)
    assert f"…{plaintext[-4:]}" not in page_of(sign_in(bob), key)


def test_last_use_is_kept_after_a_rotation(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    Secret.objects.update(last_used_at="2026-11-23T22:45:10Z", last_used_address="10.1.2.3")
    rotate(key, GracePeriod.NOW, actor=bob)
    for path in (address(key), f"{address(key)}delete/"):
        text = sign_in(bob).get(path).content.decode()
        assert "2026-11-23 22:45 UTC" in text
        assert "10.1.2.3" in text


def test_key_that_violates_a_newer_policy_is_marked(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    assert "violates the policy" not in page_of(sign_in(bob), key)
    Team.objects.update(policy=Policy(must_expire=True))
    assert "Keys of this team must expire." in page_of(sign_in(bob), key)


def test_badges_are_sorted_by_severity(bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    now = timezone.now()

    def shown(**columns: object) -> list[tuple[str, str]]:
        for name, value in columns.items():
            setattr(key, name, value)
        return [(badge.text, badge.kind) for badge in badges(key)]

    assert shown() == []
    end = now + timedelta(days=20)
    assert shown(expires_at=end) == [(f"Expires {end:%Y-%m-%d}", "calm")]
    assert shown(expires_at=now + timedelta(days=13, hours=5)) == [("Expires in 13 days", "")]
    assert shown(expires_at=now + timedelta(hours=20)) == [("Expires in 1 day", "")]
    assert shown(expires_at=now + timedelta(hours=5)) == [("Expires within a day", "")]
    assert shown(expires_at=now) == [("Expired", "")]
    assert shown(disabled_at=now, disabled_by="leak", reported_at=now) == [
        ("Leaked", "alarm"),
        ("Disabled", ""),
        ("Expired", ""),
    ]
    assert shown(allowed_models=["a/b", "c/*"])[-1] == ("Some models", "calm")


def test_list_links_the_page_and_shows_its_badges(
    sign_in: SignIn, vera: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, "nightly", expires_at=timezone.now() + timedelta(days=3, hours=1))
    ApiKey.objects.update(reported_at=timezone.now())
    text = sign_in(vera).get(KEYS).content.decode()
    assert f'href="{address(key)}"><span class="name">nightly</span></a>' in text
    assert ">Leaked</span>" in text
    assert ">Expires in 3 days</span>" in text


@pytest.mark.parametrize("much", [0, 30])
def test_query_count_does_not_depend_on_the_history(
    sign_in: SignIn,
    bob: User,
    team: Team,
    issue: Issue,
    django_assert_num_queries: DjangoAssertNumQueries,
    much: int,
) -> None:
    key, _ = issue(bob)
    Secret.objects.update(last_used_at=timezone.now())
    for number in range(much):
        AuditEvent.objects.record(Action.KEY_CHANGED, key=key, target=f"#{number}", team=team)
        UsageDay.objects.create(
            owner_id=7,
            start=Step.DAY.floor(timezone.now()),
            team_slug=team.slug,
            public_id=key.public_id,
            model=f"m{number}",
        )
    client = sign_in(bob)
    client.get(address(key))  # The first visit also notes the team in the session.
    with django_assert_num_queries(12):
        client.get(address(key), headers=HTMX)

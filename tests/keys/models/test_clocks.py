"""Hosts with wrong clocks: secrets expire, and reports are judged, by the clock of the database, as
at the gateway."""

from collections.abc import Callable
from datetime import timedelta
from itertools import permutations

import pytest
from django.test import Client
from django.utils import timezone

from keyportal.database.clock import database_now
from keyportal.keys import keystring
from keyportal.keys.exceptions import AlreadyRotating
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import (
    GracePeriod,
    delete_expired_secrets,
    live_secrets,
    revoke_old_secret,
    rotate,
)
from keyportal.keys.status import State, has_state
from keyportal.leaks import handling
from keyportal.leaks.reports import OPERATOR, ReportContents, ReportedKey
from keyportal.teams.models import Team, User
from keyportal.usage.models import UsageDay
from keyportal.usage.reports.periods import Step
from tests.support.clock import host

pytestmark = pytest.mark.django_db
Issue = Callable[..., tuple[ApiKey, str]]
SignIn = Callable[[User], Client]
AHEAD, BEHIND = timedelta(hours=2), timedelta(hours=-2)
right = timezone.now


def end(text: str, when: timedelta) -> None:
    Secret.objects.filter(digest=digest(text)).update(expires_at=right() + when)


def digest(text: str) -> bytes:
    return keystring.digest(text.encode())


def live(key: ApiKey) -> list[bytes]:
    return [bytes(one.digest) for one in live_secrets(ApiKey.objects.get(pk=key.pk))]


def report(text: str) -> int:
    return len(handling.handle_report(ReportContents([ReportedKey(text)], OPERATOR)))


def is_open(key: ApiKey) -> bool:
    """Whether it is known to have leaked, and disabled for that."""
    found = ApiKey.objects.get(pk=key.pk)
    assert (found.disabled_at is None) == (found.reported_at is None)
    return found.reported_at is not None


def test_host_clock_ahead_does_not_expire_a_secret_early(bob: User, issue: Issue) -> None:
    key, old = issue(bob)
    new = rotate(key, GracePeriod.HOUR, actor=bob).text
    with host(AHEAD):
        assert delete_expired_secrets() == 0
        assert live(key) == [digest(new), digest(old)]
        prefetched = ApiKey.objects.for_display().get(pk=key.pk)
        assert len(live_secrets(prefetched)) == 2
        with pytest.raises(AlreadyRotating):
            rotate(key, GracePeriod.HOUR, actor=bob)


def test_host_clock_behind_does_not_keep_a_secret_valid(bob: User, issue: Issue) -> None:
    key, old = issue(bob)
    new = rotate(key, GracePeriod.HOUR, actor=bob).text
    end(old, timedelta(minutes=-1))
    with host(BEHIND):
        assert live(key) == [digest(new)]
        assert delete_expired_secrets() == 1
    assert Secret.objects.count() == 1


@pytest.mark.parametrize("difference", [AHEAD, BEHIND])
def test_grace_period_does_not_depend_on_the_host_clock(
    bob: User, issue: Issue, difference: timedelta
) -> None:
    key, old = issue(bob)
    with host(difference):
        rotate(key, GracePeriod.HOUR, actor=bob)
    ending = Secret.objects.get(digest=digest(old)).expires_at
    assert ending is not None
    assert abs(ending - right() - timedelta(hours=1)) < timedelta(minutes=1)


def test_leak_report_uses_the_database_clock(bob: User, issue: Issue) -> None:
    """One that is behind would let whoever has a dead secret stop the key; one that is ahead
    would pass over a secret that still opens it."""
    key, old = issue(bob)
    rotate(key, GracePeriod.HOUR, actor=bob)
    with host(AHEAD):
        assert report(old) == 1
    key, old = issue(bob, "b")
    rotate(key, GracePeriod.HOUR, actor=bob)
    end(old, timedelta(minutes=-1))
    with host(BEHIND):
        assert report(old) == 0


CLOCKS = [AHEAD, BEHIND, timedelta()]


# Each clock of one host with each other clock of another.
@pytest.mark.parametrize(
    ("maker", "reporter", "rotator"),
    [*permutations(CLOCKS)],
)
def test_leak_ends_with_the_leaked_secret_for_any_host_clock(
    bob: User, issue: Issue, maker: timedelta, reporter: timedelta, rotator: timedelta
) -> None:
    """Or a key would be enabled again while the leaked secret lives, or never."""
    with host(maker):
        key, text = issue(bob)
    with host(reporter):
        assert report(text) == 1
        assert report(text) == 0
    with host(rotator):
        new = rotate(key, GracePeriod.HOUR, actor=bob).text
    assert is_open(key)
    revoke_old_secret(key, actor=bob)
    assert not is_open(key)
    with host(reporter):
        assert report(new) == 1
    assert is_open(key)


@pytest.mark.parametrize("difference", [timedelta(days=2), timedelta(days=-2)])
def test_pages_show_expiry_and_usage_by_the_clock_of_the_database(
    bob: User, team: Team, issue: Issue, sign_in: SignIn, difference: timedelta
) -> None:
    """Two days: what has expired is shown as expired, and the 14 days are those of the counts."""
    now = database_now()
    key, _ = issue(bob, "runs", expires_at=now + timedelta(days=1))
    ended, _ = issue(bob, "ended", expires_at=now + timedelta(days=1))
    ApiKey.objects.filter(pk=ended.pk).update(expires_at=now - timedelta(days=1))
    for days in (0, 13):
        start = Step.DAY.floor(now) - timedelta(days=days)
        UsageDay.objects.create(
            start=start, team_slug=team.slug, public_id=key.public_id, owner_id=1, requests=3
        )
    with host(difference):
        client = sign_in(bob)
        rows = client.get(f"/teams/{team.slug}/keys/").context["rows"]
        page = client.get(f"/teams/{team.slug}/keys/{key.public_id}/")
        expired = [row.pk for row in ApiKey.objects.filter(has_state(State.EXPIRED))]
    texts = {row.key.name: row.badges[0].text for row in rows}
    assert texts == {"runs": "Expires in 1 day", "ended": "Expired"}
    assert expired == [ended.pk]
    (line,) = [row.sparkline for row in rows if row.key == key]
    assert line.total == page.context["usage"].used.requests == 6

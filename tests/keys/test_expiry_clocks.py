"""Hosts with wrong clocks: when a key expires and how long it may live go by the clock of the
database, as at the gateway, wherever it is made."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.core.management.base import CommandError
from django.test import Client
from django.utils import timezone

from keyportal.api.framework.problems import Invalid
from keyportal.api.v1.key_lookup import validated
from keyportal.api.v1.permissions import default_expiry
from keyportal.api.v1.schemas import NewKey
from keyportal.audit.models import Tombstone
from keyportal.keys.changes import Changes, change_key
from keyportal.keys.exceptions import PolicyViolation
from keyportal.keys.management.issuing import parse_expiry
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.violations import breaks_policy
from keyportal.notifications.models import Reminder
from keyportal.notifications.reminders import send_reminders
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from tests.support.clock import host

pytestmark = pytest.mark.django_db
Issue = Callable[..., tuple[ApiKey, str]]
SignIn = Callable[[User], Client]
AHEAD, BEHIND = timedelta(hours=2), timedelta(hours=-2)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
wrong_clock = pytest.mark.parametrize("difference", [AHEAD, BEHIND])
MONTH = Policy(max_lifetime_days=30)
LONGEST = 31 * DAY  # The policy's, with its leeway.


def from_now(time: timedelta) -> datetime:
    return timezone.now() + time


def ends_in(expires_at: datetime | None, time: timedelta) -> bool:
    return expires_at is not None and abs(expires_at - from_now(time)) < timedelta(minutes=10)


@wrong_clock
def test_days_that_a_person_chooses(
    bob: User, team: Team, sign_in: SignIn, difference: timedelta
) -> None:
    page = f"/teams/{team.slug}/keys/create/"
    with host(difference):
        client = sign_in(bob)
        form = client.get(page).context["form"]
        assert client.post(page, {"name": "ci", "lifetime": "7"}).status_code == 200
        assert abs(form.now - from_now(timedelta()) + difference) < timedelta(minutes=10)
    assert ends_in(ApiKey.objects.get().expires_at, 7 * DAY)


def test_longest_lifetime_of_the_policy(team: Team, bob: User, issue: Issue) -> None:
    """A key of an hour more is refused, and one of an hour less is made, on each host."""
    team.policy = MONTH
    team.save(update_fields=["policy"])
    too_late, in_time = from_now(LONGEST + HOUR), from_now(LONGEST - HOUR)
    for number, difference in enumerate((AHEAD, BEHIND)):
        with host(difference):
            with pytest.raises(PolicyViolation):
                issue(bob, f"refused {number}", expires_at=too_late)
            key, _ = issue(bob, f"made {number}", expires_at=in_time)
            with pytest.raises(PolicyViolation):
                change_key(key, Changes(expires_at=too_late), actor=bob)
    keys = ApiKey.objects.for_team(team)
    assert sorted(key.name for key in keys) == ["made 0", "made 1"]
    keys.filter(name="made 1").update(expires_at=too_late)
    for difference in (AHEAD, BEHIND):
        with host(difference):
            assert [key.name for key in keys.filter(breaks_policy(MONTH, keys))] == ["made 1"]


@wrong_clock
def test_expiry_from_commands_and_programs(difference: timedelta) -> None:
    """A key of one hour is made on a host that is two hours ahead, and an end that is over is
    refused by one that is behind."""
    with host(difference):
        right_now = from_now(-difference)
        later, over = (str((right_now + time).isoformat()) for time in (HOUR, -HOUR))
        assert parse_expiry(later) == validated(NewKey(name="ci", expires_at=later))["expires_at"]
        with pytest.raises(CommandError, match="past"):
            parse_expiry(over)
        with pytest.raises(Invalid):
            validated(NewKey(name="ci", expires_at=over))
        in_days, by_policy = parse_expiry("7d"), default_expiry(None, MONTH)
    assert ends_in(in_days, 7 * DAY)
    assert ends_in(by_policy, 30 * DAY)


@wrong_clock
def test_deletion(bob: User, issue: Issue, difference: timedelta) -> None:
    """After a restore, the time says which keys to delete again."""
    with host(difference):
        key, _ = issue(bob)
        key.revoke(actor=bob)
    assert ends_in(Tombstone.objects.get().deleted_at, timedelta())


@wrong_clock
def test_reminders(bob: User, issue: Issue, difference: timedelta) -> None:
    """None says that a key has expired that works, and a key that is made for 14 days gets none at
    once."""
    soon, _ = issue(bob, "soon", expires_at=from_now(HOUR))
    over, _ = issue(bob, "over", expires_at=from_now(-HOUR))
    ApiKey.objects.update(created_at=from_now(-90 * DAY))
    with host(difference):
        issue(bob, "new", expires_at=parse_expiry("14d"))
        changed, _ = issue(bob, "changed")
        change_key(changed, Changes(expires_at=parse_expiry("3d")), actor=bob)
        send_reminders()
    stages = dict(Reminder.objects.values_list("public_id", "days"))
    assert stages == {soon.public_id: 3, over.public_id: 0}

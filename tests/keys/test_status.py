"""The database finds keys in the same states as `state_of` computes."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from keyportal.keys.models import ApiKey
from keyportal.keys.status import State, has_state, state_of
from keyportal.teams.models import Team, User

pytestmark = pytest.mark.any_database

Issue = Callable[..., tuple[ApiKey, str]]


def test_each_key_matches_only_its_own_state(
    issue: Issue, ada: User, bob: User, charlie: User, other_team: Team
) -> None:
    over = timezone.now() - timedelta(days=1)
    issue(ada, "works")
    issue(ada, "over", expires_at=over)
    issue(bob, "left")
    issue(charlie, "team off", team=other_team)
    issue(charlie, "team off and over", team=other_team, expires_at=over)
    off, _ = issue(bob, "off and left", expires_at=over)
    ApiKey.objects.filter(pk=off.pk).update(disabled_at=over, disabled_by="owner")
    Team.objects.filter(pk=other_team.pk).update(is_active=False)
    bob.memberships.all().delete()
    ApiKey.objects.filter(name="left").update(disabled_at=None, disabled_by="")
    keys = ApiKey.objects.for_display().select_related("team")
    found = {state: set(keys.filter(has_state(state))) for state in State}
    assert {state: {key.name for key in each} for state, each in found.items()} == {
        State.ACTIVE: {"works"},
        State.DISABLED: {"off and left"},
        State.EXPIRED: {"over", "team off and over"},
        State.TEAM_OFF: {"team off"},
        State.OWNERLESS: {"left"},
    }
    assert all(state_of(key) == state for state, each in found.items() for key in each)

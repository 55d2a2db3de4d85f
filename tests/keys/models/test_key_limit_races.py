"""Sixteen concurrent requests: limit, name and audit row are exact on either database."""

from collections.abc import Callable
from functools import partial

import pytest

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.keys.exceptions import KeyLimitReached, NameTaken, PolicyViolation
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rules.policy import set_policy
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.policy import Policy
from tests.support import concurrency

CROWD = 16
LIMIT = 7


@pytest.fixture
def busy_team(transactional_db: None) -> tuple[Team, User]:
    """Committed, so that each thread's own connection sees it."""
    team = Team.objects.create(name="Busy", max_keys=LIMIT)
    user = User.objects.create_user("bob")
    Membership.objects.create(team=team, user=user)
    return team, user


def run_concurrently(act: Callable[[int], object]) -> list[object]:
    """What `act(0)` to `act(15)` returned or raised."""
    return concurrency.run_concurrently(*(partial(act, number) for number in range(CROWD)))


def kinds(outcomes: list[object], kind: type) -> int:
    return sum(isinstance(outcome, kind) for outcome in outcomes)


def test_key_limit_is_exact_under_concurrent_creates(busy_team: tuple[Team, User]) -> None:
    team, user = busy_team
    outcomes = run_concurrently(
        lambda number: ApiKey.objects.issue(team=team, owner=user, actor=user, name=f"key {number}")
    )
    assert kinds(outcomes, tuple) == LIMIT
    assert kinds(outcomes, KeyLimitReached) == CROWD - LIMIT
    assert ApiKey.objects.for_team(team).count() == Secret.objects.count() == LIMIT
    refusals = AuditEvent.objects.for_team(team).filter(action=Action.KEY_REFUSED_BY_LIMIT)
    assert refusals.count() == CROWD - LIMIT


def test_key_limit_of_a_member_is_exact_under_concurrent_creates(
    busy_team: tuple[Team, User],
) -> None:
    team, user = busy_team
    Team.objects.update(policy=Policy(max_keys_per_member=3), max_keys=CROWD)
    outcomes = run_concurrently(
        lambda number: ApiKey.objects.issue(team=team, owner=user, actor=user, name=f"key {number}")
    )
    assert kinds(outcomes, tuple) == 3
    assert kinds(outcomes, PolicyViolation) == CROWD - 3
    assert ApiKey.objects.for_team(team).count() == Secret.objects.count() == 3


def test_concurrent_policy_changes_are_audited_in_order(
    busy_team: tuple[Team, User],
) -> None:
    team, user = busy_team
    Membership.objects.update(role=Role.ADMIN)
    run_concurrently(
        lambda number: set_policy(team, Policy(max_lifetime_days=number + 1), actor=user)
    )
    events = AuditEvent.objects.for_team(team).filter(action=Action.TEAM_CHANGED)
    targets = [event.target for event in events.order_by("id")]
    steps = [
        text.removeprefix("Policy: Maximum lifetime in days: ").split(" → ") for text in targets
    ]
    assert len(steps) == CROWD
    assert [before for before, _ in steps] == ["none", *(now for _, now in steps[:-1])]


def test_one_of_many_concurrent_creates_of_a_name_succeeds(busy_team: tuple[Team, User]) -> None:
    team, user = busy_team
    outcomes = run_concurrently(
        lambda _: ApiKey.objects.issue(team=team, owner=user, actor=user, name="same")
    )
    assert kinds(outcomes, tuple) == 1
    assert kinds(outcomes, NameTaken) == CROWD - 1
    assert ApiKey.objects.for_team(team).count() == 1


def test_one_of_many_concurrent_posts_of_a_form_succeeds(busy_team: tuple[Team, User]) -> None:
    team, user = busy_team
    outcomes = run_concurrently(
        lambda number: ApiKey.objects.issue(
            team=team, owner=user, actor=user, name=f"key {number}", nonce="one form"
        )
    )
    assert kinds(outcomes, tuple) == 1
    assert ApiKey.objects.for_team(team).count() == 1


def test_one_of_many_concurrent_revokes_is_audited(busy_team: tuple[Team, User]) -> None:
    team, user = busy_team
    key, _ = ApiKey.objects.issue(team=team, owner=user, actor=user, name="gone")
    outcomes = run_concurrently(lambda _: ApiKey(pk=key.pk, team=team).revoke(actor=user))
    assert kinds(outcomes, ApiKey.DoesNotExist) == CROWD - 1
    assert not ApiKey.objects.exists()
    assert Tombstone.objects.count() == 1
    assert AuditEvent.objects.for_team(team).filter(action=Action.KEY_DELETED).count() == 1

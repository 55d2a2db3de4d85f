"""The database and `policy.violations` agree on which keys break a policy."""

from collections.abc import Callable
from datetime import timedelta
from itertools import product

import pytest
from django.utils import timezone

from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.keys.rules.policy import violations
from keyportal.keys.rules.violations import breaks_policy
from keyportal.teams.models import Team, User
from keyportal.teams.policy import NO_POLICY, Policy

Issue = Callable[..., tuple[ApiKey, str]]
NAMES = ["ci-nightly", "CI-nightly", "nightly", "ci.x", "a+(b)", "ci-%", "ci_x"]
MODELS: list[tuple[str, ...]] = [(), ("public/*",), ("public/a", "team/b"), ("public/a",), ('q"é',)]
POLICIES = [
    NO_POLICY,
    Policy(must_expire=True),
    Policy(max_lifetime_days=30),
    Policy(max_lifetime_days=30, must_expire=True),
    Policy(models=("public/*",)),
    Policy(models=("public/a", "team/*")),
    Policy(models=('q"é',)),
    *(Policy(endpoints=(one.value,)) for one in Endpoints),
    Policy(endpoints=("chat", "embeddings")),
    *(Policy(name_pattern=one) for one in ("ci-*", "*x", "ci.x", "a+(*", "ci-%", "ci_*")),
    Policy(max_lifetime_days=30, models=("public/*",), endpoints=("chat",), name_pattern="ci*"),
]


@pytest.fixture
def keys(team: Team, bob: User) -> list[ApiKey]:
    """One of each kind; the first have the names that are hard to match."""
    ends = [None, *(timezone.now() + timedelta(days=days) for days in (-1, 29, 32))]
    made = []
    for number, (models, endpoints, end) in enumerate(product(MODELS, Endpoints, ends)):
        name = NAMES[number] if number < len(NAMES) else f"key-{number}"
        key = ApiKey(team=team, owner=bob, name=name, public_id=f"{number:08}", expires_at=end)
        key.permissions = Permissions(models, endpoints)
        made.append(key)
    return ApiKey.objects.bulk_create(made)


def test_database_and_python_rules_agree(team: Team, keys: list[ApiKey]) -> None:
    every = ApiKey.objects.for_team(team)
    for policy in POLICIES:
        found = set(every.filter(breaks_policy(policy, every)).values_list("name", flat=True))
        assert found == {key.name for key in keys if violations(policy, key)}, policy
    assert not every.filter(breaks_policy(NO_POLICY, every)).exists()


def test_only_the_given_keys_are_checked(team: Team, alice: User, bob: User, issue: Issue) -> None:
    issue(alice, "of-alice")
    issue(bob, "of-bob")
    bobs = ApiKey.objects.filter(owner=bob)
    found = bobs.filter(breaks_policy(Policy(models=("public/*",)), bobs))
    assert [key.name for key in found] == ["of-bob"]

"""The Health page of a large team: 200 keys, called on each of 90 days, and 6,000 calls."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from keyportal.usage.models import Call, UsageDay
from keyportal.usage.reports.periods import Step
from tests.support.database_work import database_work
from tests.usage.reports.test_usage_speed import repeat

pytestmark = pytest.mark.long
# 18,000 rows of usage, 6,000 of calls, and the keys, for each list of findings.
WORK = {"sqlite": 600_000, "postgresql": 140_000}
HEALTH = "/teams/u-8105f7322477/health/"
SignIn = Callable[[User], Client]
POLICY = Policy(max_lifetime_days=90, models=("public/*",), name_pattern="ci-*", rotation_days=30)


def fill(team: Team, owner: User, count: int) -> None:
    """A third may call all, and a third some; half of them call, from two networks each."""
    now = timezone.now()
    made = ApiKey.objects.bulk_create(
        ApiKey(
            team=team,
            owner=owner,
            name=f"key {number}",
            public_id=f"{number:08}",
            allowed_models=["public/*"] if number % 3 else [],
        )
        for number in range(count)
    )
    ApiKey.objects.update(created_at=now - timedelta(days=99))
    Secret.objects.bulk_create(
        Secret(
            key=key,
            digest=f"{number:032}".encode(),
            prefix="sk-kp-",
            last4="abcd",
            last_used_at=now if number % 2 else None,
        )
        for number, key in enumerate(made)
    )


def use(team: Team, count: int) -> None:
    today, now = Step.DAY.floor(timezone.now()), timezone.now()
    what = [{"team_slug": team.slug, "public_id": f"{number:08}"} for number in range(count)]
    UsageDay.objects.bulk_create(
        UsageDay(start=today, owner_id=7, model="public/small", requests=7, **each) for each in what
    )
    repeat(UsageDay, "start", today, 90, timedelta(days=1))
    Call.objects.bulk_create(
        Call(
            owner_id=7,
            started_at=now,
            address=f"192.0.{number % 2}.7",
            status=200,
            duration_ms=1,
            **what[number // 2],
        )
        for number in range(count)
    )
    repeat(Call, "started_at", now, 30, timedelta(hours=5))


@pytest.mark.django_db
def test_200_keys_are_checked_in_a_few_passes(
    sign_in: SignIn, alice: User, team: Team, model: ServedModel
) -> None:
    Team.objects.update(policy=POLICY)
    fill(team, alice, 200)
    use(team, 200)
    client = sign_in(alice)
    for query in ({}, {"page": "8"}, {"finding": "too-wide"}, {"finding": "breaks-policy"}):
        shown = partial(show, client, query)
        assert database_work(shown) <= WORK[connection.vendor], query


def show(client: Client, query: dict[str, str]) -> None:
    assert "25 of 200" in client.get(HEALTH, query).content.decode() or query

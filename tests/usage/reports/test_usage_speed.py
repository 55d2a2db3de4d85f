"""The pages of usage of a large team: 100 keys on each of 90 days, and 20,000 calls.

What the database does is counted, not timed: see `database_work`.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import pytest
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from keyportal.teams.models import Team, User
from keyportal.usage import call_log, impact
from keyportal.usage.models import Call, UsageDay
from keyportal.usage.reports.periods import Step
from tests.support.database_work import database_work

pytestmark = pytest.mark.long
# Several times what it takes, because PostgreSQL plans by what it finds in a random sample of rows.
LARGE = {"sqlite": 3_000_000, "postgresql": 50_000}  # Of 9,000 rows of usage.
SEARCH = {"sqlite": 80_000, "postgresql": 12_000}  # Through all calls.
IMPACT = {"sqlite": 90_000, "postgresql": 10_000}
ONE_PAGE = {"sqlite": 10_000, "postgresql": 5_000}
USAGE = "/teams/u-8105f7322477/usage/"
CALLS = "/teams/u-8105f7322477/calls/"
SignIn = Callable[[User], Client]


def repeat(table: type[Model], column: str, at: datetime, steps: int, step: timedelta) -> None:
    """Copy all rows, which are of one moment, to so many moments before it."""
    fields = [field.attname for field in table._meta.concrete_fields]
    rest = ", ".join(name for name in fields if name not in {"id", column})
    name = table._meta.db_table
    what = f"INSERT INTO {name} ({column}, {rest}) SELECT %s, {rest}"
    copy = f"{what} FROM {name} WHERE {column} = %s"
    adapt = connection.ops.adapt_datetimefield_value
    with connection.cursor() as cursor:
        for number in range(1, steps):
            cursor.execute(copy, [adapt(at - number * step), adapt(at)])
        cursor.execute("ANALYZE")  # As PostgreSQL does by itself before long.


def fill(team: Team) -> None:
    today = Step.DAY.floor(timezone.now())
    UsageDay.objects.bulk_create(
        UsageDay(
            start=today,
            team_slug=team.slug,
            public_id=f"{key:08}",
            owner_id=1 + key % 50,
            model=f"public/model-{key % 20}",
            requests=key,
            prompt_tokens=100 * key,
            completion_tokens=50 * key,
            latency_3=key,
            latency_4=7,
        )
        for key in range(100)
    )
    repeat(UsageDay, "start", today, 90, timedelta(days=1))


def show(client: Client, path: str, query: dict[str, str]) -> None:
    assert client.get(path, query).status_code == 200


@pytest.mark.django_db
def test_90_days_of_100_keys_are_read_a_few_times(sign_in: SignIn, vera: User, team: Team) -> None:
    fill(team)
    client = sign_in(vera)
    client.get(USAGE)
    for query in ({}, {"by": "model"}, {"member": "user7"}, {"key": "00000099"}):
        shown = partial(show, client, USAGE, {"range": "90d"} | query)
        assert database_work(shown) <= LARGE[connection.vendor], query


def call_often(team: Team) -> None:
    now = timezone.now()
    Call.objects.bulk_create(
        Call(
            owner_id=7,
            request_id=f"req-{number}",
            started_at=now,
            team_slug=team.slug,
            public_id="busy1234",
            address="192.0.2.7",
            user_agent="curl/8.5",
            status=200,
            duration_ms=1,
        )
        for number in range(1000)
    )
    repeat(Call, "started_at", now, 20, timedelta(seconds=1000))


@pytest.mark.django_db
def test_pages_and_impact_read_few_of_20_000_calls(
    sign_in: SignIn, vera: User, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when a search finds nothing among those it looks through at once. The impact is asked of
    the key of all calls, of another, of which nothing is found, and of a hundred."""
    monkeypatch.setattr(call_log, "MAX_CALLS_SEARCHED", 2_000)
    monkeypatch.setattr(impact, "MAX_CALLS_SEARCHED", 1_000)
    call_often(team)
    client = sign_in(vera)
    client.get(CALLS)
    half_way = (timezone.now() - timedelta(seconds=10_000)).timestamp()
    for query in ({}, {"at": f"{half_way:.0f}000000.1"}):
        shown = partial(show, client, CALLS, query)
        assert database_work(shown) <= ONE_PAGE[connection.vendor], query
    for query in ({"key": "nokey123"}, {"status": "5"}):
        shown = partial(show, client, CALLS, query)
        assert database_work(shown) <= SEARCH[connection.vendor], query
    for public_ids in (
        ["busy1234"],
        ["nokey123"],
        [f"key{n:05}" for n in range(99)] + ["busy1234"],
    ):
        found = partial(impact.impact, team, public_ids)
        assert database_work(found) <= IMPACT[connection.vendor], public_ids[-1]

"""The value class `Limits` and its model field."""

import pytest
from django.core.exceptions import ValidationError
from django.db import connection

from keyportal.teams.limits import LABELS, MAX_LIMIT, UNLIMITED, Limits, parse, validate
from keyportal.teams.models import Team


def test_unset_limits_are_not_stored() -> None:
    assert UNLIMITED.to_json() == {}
    assert Limits(requests_per_minute=60).to_json() == {"requests_per_minute": 60}


def test_every_limit_has_a_label() -> None:
    assert list(LABELS) == list(Limits._fields)


@pytest.mark.parametrize(
    ("limits", "ceiling", "above"),
    [
        (Limits(), Limits(), []),
        (Limits(tokens_per_day=5), Limits(), []),
        (Limits(tokens_per_day=5), Limits(tokens_per_day=5), []),
        (Limits(tokens_per_day=6), Limits(tokens_per_day=5), ["tokens_per_day"]),
        (Limits(), Limits(tokens_per_day=5), ["tokens_per_day"]),
        (Limits(requests_per_day=1), Limits(tokens_per_day=5), ["tokens_per_day"]),
    ],
)
def test_no_limit_is_higher_than_any(limits: Limits, ceiling: Limits, above: list[str]) -> None:
    assert limits.above(ceiling) == above


def test_lowest_takes_the_lower_value_of_each_limit() -> None:
    one = Limits(requests_per_minute=1, tokens_per_minute=9, tokens_per_day=5)
    other = Limits(requests_per_minute=2, tokens_per_minute=8, tokens_per_month=7)
    expected = Limits(
        requests_per_minute=1, tokens_per_minute=8, tokens_per_day=5, tokens_per_month=7
    )
    assert one.lowest(other) == other.lowest(one) == expected


def test_limits_round_trip_through_the_database(db: None) -> None:
    limits = Limits(requests_per_minute=60, parallel_requests=2)
    team = Team.objects.create(name="Acme", limits=limits)
    again = Team.objects.get(pk=team.pk)
    assert (again.limits, again.key_limits) == (limits, UNLIMITED)
    with connection.cursor() as cursor:
        cursor.execute("SELECT limits, key_limits FROM teams_team WHERE id = %s", [team.pk])
        assert [parse(text) for text in cursor.fetchone()] == [limits, UNLIMITED]


def test_changes_have_the_old_and_the_new_value() -> None:
    former, now = Limits(tokens_per_day=5, parallel_requests=2), Limits(tokens_per_day=6)
    texts = ["Tokens per day: 5 → 6", "Parallel requests: 2 → none"]
    assert now.changes_from(former) == texts
    assert now.changes_from(now) == []
    assert (now.describe(), UNLIMITED.describe()) == ("tokens per day: 6", "no limits")


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1, 1.5, "60"])
def test_an_invalid_limit_is_refused(limit: object) -> None:
    with pytest.raises(ValidationError):
        validate(Limits(requests_per_day=limit))  # type: ignore[arg-type]  # that is the test


def test_a_team_with_invalid_limits_is_not_valid(db: None) -> None:
    with pytest.raises(ValidationError):
        Team(name="Acme", limits=Limits(requests_per_day=0)).full_clean()

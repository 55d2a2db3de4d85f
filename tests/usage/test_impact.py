"""The impact of deleting keys: requests, models, addresses and agents of the last day."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from keyportal.teams.models import Team
from keyportal.usage import impact as module
from keyportal.usage.impact import TopValues, impact
from keyportal.usage.models import Call, Usage
from keyportal.usage.reports.periods import Step

KEY = "AbCd1234"
Used = Callable[..., Usage]
CallOnce = Callable[..., Call]


@pytest.fixture
def call(team: Team) -> CallOnce:
    def call(public_id: str = KEY, minutes: float = 0, **fields: Any) -> Call:
        row = {"team_slug": team.slug, "public_id": public_id, "owner_id": 7}
        row |= {"status": 200, "duration_ms": 1}
        at = timezone.now() - timedelta(minutes=minutes)
        return Call.objects.create(**(row | {"started_at": at} | fields))

    return call


def test_sums_the_last_day_of_this_key_only(team: Team, other_team: Team, used: Used) -> None:
    used(Step.HOUR, KEY, requests=5, model="public/large")
    used(Step.HOUR, KEY, ago=23, requests=7, model="public/small")
    used(Step.HOUR, KEY, ago=24, requests=100, model="public/old")
    used(Step.HOUR, "Other123", requests=1000)
    used(Step.HOUR, KEY, requests=1000, team_slug=other_team.slug)
    result = impact(team, [KEY])
    assert result.requests == 12
    assert result.models == TopValues(["public/small", "public/large"], 0)


def test_lists_addresses_and_agents_busiest_first(
    team: Team, other_team: Team, call: CallOnce
) -> None:
    for _ in range(2):
        call(address="192.0.2.7", user_agent="curl/8.5")
    call(address="2001:db8::1", user_agent="curl/8.5")
    call(address=None, user_agent="")
    call("Other123", address="198.51.100.1", user_agent="theirs")
    call(address="198.51.100.2", user_agent="elsewhere", team_slug=other_team.slug)
    call(minutes=25 * 60, address="198.51.100.3", user_agent="yesterday")
    result = impact(team, [KEY])
    assert result.addresses == TopValues(["192.0.2.7", "2001:db8::1"], 0)
    assert result.agents == TopValues(["curl/8.5"], 0)
    assert not result.is_cut


def test_several_keys_are_summed(team: Team, used: Used, call: CallOnce) -> None:
    used(Step.HOUR, KEY, requests=5, model="public/large")
    used(Step.HOUR, "Second12", requests=7, model="public/large")
    used(Step.HOUR, "Other123", requests=1000, model="public/other")
    call(address="192.0.2.7", user_agent="curl/8.5")
    for _ in range(2):
        call("Second12", address="192.0.2.8", user_agent="curl/8.5")
    call("Other123", address="198.51.100.1", user_agent="theirs")
    result = impact(team, [KEY, "Second12"])
    assert result.requests == 12
    assert result.models == TopValues(["public/large"], 0)
    assert result.addresses == TopValues(["192.0.2.8", "192.0.2.7"], 0)
    assert result.agents == TopValues(["curl/8.5"], 0)


def test_long_lists_are_cut_and_counted(team: Team, call: CallOnce) -> None:
    for number in range(8):
        call(address=f"192.0.2.{number}", user_agent=f"program-{number}")
    result = impact(team, [KEY])
    assert (len(result.addresses.first), result.addresses.more) == (5, 3)
    assert (len(result.agents.first), result.agents.more) == (5, 3)


def test_only_the_latest_calls_of_the_team_are_searched(
    team: Team, call: CallOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CALLS_SEARCHED", 3)
    call(minutes=9, address="192.0.2.9")
    for minutes in range(4):
        call("Busy1234", minutes=minutes)
    result = impact(team, [KEY])
    assert result.addresses == TopValues([], 0)
    assert result.is_cut


def test_no_more_than_a_day_is_searched(
    team: Team, call: CallOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CALLS_SEARCHED", 3)
    call(address="192.0.2.7")
    for days in (2, 3, 4):
        call(minutes=days * 24 * 60, address="192.0.2.8")
    result = impact(team, [KEY])
    assert result.addresses == TopValues(["192.0.2.7"], 0)
    assert not result.is_cut


def test_four_queries_for_any_number_of_calls(
    team: Team,
    used: Used,
    call: CallOnce,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    with django_assert_num_queries(4):
        impact(team, [KEY])
    for number in range(20):
        used(Step.HOUR, KEY, ago=number, model=f"public/{number}")
        call(minutes=number, address=f"192.0.2.{number}")
    with django_assert_num_queries(4):
        impact(team, [KEY])

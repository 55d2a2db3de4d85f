"""The expiry of a key, as people choose it."""

from datetime import UTC, datetime, timedelta

import pytest

from keyportal.keys.forms.expiry import ExpiryForm, expiry_choices
from keyportal.teams.policy import NO_POLICY, Policy

pytestmark = pytest.mark.any_database


NOW = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)


def chosen(policy: Policy = NO_POLICY, **typed: str) -> ExpiryForm:
    return ExpiryForm(typed, policy=policy, now=NOW)


def in_days(count: int) -> str:
    return str(NOW.date() + timedelta(days=count))


@pytest.mark.parametrize("days", ["7", "30", "60", "90", "365"])
def test_days_count_from_now(days: str) -> None:
    form = chosen(lifetime=days)
    assert form.is_valid()
    assert form.cleaned_data["expires_at"] == NOW + timedelta(days=int(days))


def test_date_means_the_end_of_that_day_in_utc() -> None:
    form = chosen(lifetime="date", expiry_date=in_days(3))
    assert form.is_valid()
    assert form.cleaned_data["expires_at"] == datetime(2026, 3, 4, 23, 59, 59, tzinfo=UTC)


def test_today_is_accepted() -> None:
    assert chosen(lifetime="date", expiry_date=in_days(0)).is_valid()


def test_never_and_a_missing_field_mean_no_expiry() -> None:
    for typed in ({"lifetime": "never"}, {"lifetime": ""}, {"expiry_date": in_days(5)}):
        form = ExpiryForm(typed, policy=NO_POLICY, now=NOW)
        assert form.is_valid()
        assert form.cleaned_data["expires_at"] is None


@pytest.mark.parametrize(
    ("day", "message"),
    [
        ("", "Choose the last day."),
        (in_days(-1), "This day is in the past."),
        (in_days(3651), "At most 3650 days from now."),
        ("9999-12-31", "At most 3650 days from now."),
        ("tomorrow", "Enter a valid date."),
    ],
)
def test_invalid_date_is_an_error_of_its_field(day: str, message: str) -> None:
    assert chosen(lifetime="date", expiry_date=day).errors["expiry_date"] == [message]


@pytest.mark.parametrize("nonsense", ["8", "0", "-7", "forever"])
def test_choice_that_is_not_offered_is_refused(nonsense: str) -> None:
    assert "lifetime" in chosen(lifetime=nonsense).errors


@pytest.mark.parametrize(
    ("policy", "offered", "first"),
    [
        (NO_POLICY, ["7", "30", "60", "90", "365", "date", "never"], "never"),
        (Policy(must_expire=True), ["7", "30", "60", "90", "365", "date"], "90"),
        (Policy(max_lifetime_days=60), ["7", "30", "60", "date"], "60"),
        (Policy(max_lifetime_days=45), ["7", "30", "45", "date"], "45"),
        (Policy(max_lifetime_days=3), ["3", "date"], "3"),
        (Policy(max_lifetime_days=400), ["7", "30", "60", "90", "365", "400", "date"], "90"),
    ],
)
def test_only_choices_within_the_policy_are_offered(
    policy: Policy, offered: list[str], first: str
) -> None:
    assert [value for value, _ in expiry_choices(policy, NOW.date())] == offered
    form = ExpiryForm(policy=policy, now=NOW)
    assert form["lifetime"].initial == first
    assert first in offered


def test_missing_field_gets_an_expiry_if_the_policy_requires_one() -> None:
    form = chosen(Policy(max_lifetime_days=7))
    assert form.is_valid()
    assert form.cleaned_data["expires_at"] == NOW + timedelta(days=7)

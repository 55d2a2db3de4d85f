"""Hosts with wrong clocks: management keys expire, and their requests are counted, by the clock of
the database."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import product

import pytest
from django.test import Client
from django.utils import timezone

from keyportal.api.forms import ManagementKeyForm
from keyportal.api.framework import throttling
from keyportal.api.models import ManagementKey
from keyportal.teams.models import User
from keyportal.usage.models import Window
from tests.support.api_client import NewApiClient, assert_problem
from tests.support.cases import own_case

AHEAD, BEHIND = timedelta(hours=2), timedelta(hours=-2)
PAGE = "/teams/u-8105f7322477/management-keys/"
right = timezone.now


@pytest.fixture(autouse=True)
def early_in_the_minute() -> None:
    """A test of a minute's window must not straddle two of them."""
    left = 60 - datetime.now(UTC).timestamp() % 60
    if left < 8:
        time.sleep(left + 0.1)


@contextmanager
def host(difference: timedelta) -> Iterator[None]:
    """On a host whose clock differs by so much from the database's."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # as it is used
            return datetime.now(tz) + difference

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(timezone, "now", lambda: right() + difference)
        # Where a module asks the host itself, it gets the wrong time as well.
        patched.setattr(throttling, "datetime", Clock, raising=False)
        yield


def test_management_key_expires_by_the_database_clock(
    new_api_client: NewApiClient, ada: User, client: Client
) -> None:
    client.force_login(ada)
    for is_over, clock in product((False, True), (AHEAD, BEHIND)):
        with own_case(is_over, clock):
            end = right() + (timedelta(minutes=-1) if is_over else timedelta(minutes=1))
            program = new_api_client(ada, expires_at=end)
            with host(clock):
                assert program.get("self").status_code == (401 if is_over else 200)
                (key,) = ManagementKey.objects.for_display()
                assert key.has_expired is is_over
            assert (">Expired<" in client.get(PAGE).content.decode()) is is_over


def test_last_use_is_stored_by_the_database_clock(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada)
    for clock in (AHEAD, BEHIND):
        ManagementKey.objects.update(last_used_at=None)
        with host(clock):
            program.get("self")
        used_at = ManagementKey.objects.get().last_used_at
        assert used_at
        assert abs(used_at - right()) < timedelta(minutes=1)


def test_wrong_host_clock_gives_no_second_window(
    new_api_client: NewApiClient, ada: User, settings: object
) -> None:
    """Else a program had the limit once for each host."""
    settings.API_REQUESTS_PER_MINUTE = 1  # type: ignore[attr-defined]
    program = new_api_client(ada)
    assert program.get("self").status_code == 200
    for clock in (AHEAD, BEHIND):
        with host(clock):
            response = program.get("self")
        assert_problem(response, 429, "too-many-requests")
        assert 1 <= int(response["Retry-After"]) <= 60
    window = Window.objects.get(subject__startswith="management:")
    assert abs(window.start - right()) < timedelta(minutes=2)


@pytest.mark.django_db
@pytest.mark.parametrize("clock", [AHEAD, BEHIND], ids=["ahead", "behind"])
def test_days_that_a_person_chooses(clock: timedelta) -> None:
    with host(clock):
        form = ManagementKeyForm({"name": "ci", "scopes": ["keys:read"], "lifetime": "30"})
        assert form.is_valid(), form.errors
        end = form.issue_arguments["expires_at"]
    assert abs(end - right() - timedelta(days=30)) < timedelta(minutes=10)

"""How long a session lasts."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from keyportal.teams.models import Session, User
from keyportal.teams.sign_in import sessions
from tests.support.cases import own_case
from tests.teams.test_sign_in import HOME, change, is_signed_in, post

HOUR = 3600
DAY = 24 * HOUR


class Clock:
    """The time of the module `sessions`; the rest of the time is Django's."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sessions, "time", clock)
    return clock


def seconds_left() -> float:
    """Of the only session, as its row says."""
    return (Session.objects.get().expire_date - timezone.now()).total_seconds()


@pytest.mark.any_database
def test_a_session_ends_if_it_is_not_used(client: Client, bob: User) -> None:
    assert post(client, "bob") == 302
    assert 12 * HOUR - 60 < seconds_left() <= 12 * HOUR
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    assert not is_signed_in(client)


@pytest.mark.any_database
def test_use_keeps_a_session(client: Client, bob: User, clock: Clock) -> None:
    post(client, "bob")
    Session.objects.update(expire_date=timezone.now() + timedelta(hours=1))
    clock.now += sessions.WRITE_INTERVAL_SECONDS - 1
    assert is_signed_in(client)
    assert seconds_left() <= HOUR
    clock.now += 1
    assert is_signed_in(client)
    assert seconds_left() > 11 * HOUR


@pytest.mark.any_database
def test_use_does_not_write_each_time(
    client: Client, bob: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    client.force_login(bob)
    client.get("/")
    with django_assert_num_queries(2):  # The session and the user.
        client.get("/accounts/password/change/")


@pytest.mark.any_database
def test_a_page_that_updates_itself_keeps_no_session(
    client: Client, ada: User, clock: Clock
) -> None:
    """Attack: the page of running calls stays open on an unattended screen."""
    client.force_login(ada)
    path = "/teams/u-8105f7322477/running/"
    client.get(path)
    Session.objects.update(expire_date=timezone.now() + timedelta(hours=1))
    clock.now += HOUR
    assert client.get(path, headers={"HX-Request": "true"}).status_code == 200
    assert seconds_left() <= HOUR
    client.get(path)
    assert seconds_left() > HOUR


@pytest.mark.any_database
def test_a_session_ends_at_its_age_however_much_it_is_used(
    client: Client, bob: User, clock: Clock
) -> None:
    cases: list[dict[str, str]] = [{}, {"remember": "on"}]
    for remember in cases:
        with own_case(remember):
            client.post("/accounts/login/", HOME | remember)
            began = clock.now
            clock.now = began + 14 * DAY - HOUR
            assert is_signed_in(client)
            assert HOUR - 60 < seconds_left() <= HOUR
            change(client)  # A new password does not make it younger.
            clock.now = began + 14 * DAY
            assert is_signed_in(client)  # This request notes the use, and so the end.
            assert not is_signed_in(client)


@pytest.mark.any_database
def test_a_cookie_that_is_kept_ends_with_the_session(client: Client, bob: User) -> None:
    client.post("/accounts/login/", HOME | {"remember": "on"})
    assert 12 * HOUR - 60 < int(client.cookies["keyportal_session"]["max-age"]) <= 12 * HOUR


@pytest.mark.any_database
def test_the_lifetimes_are_settings(
    client: Client, bob: User, settings: Settings, clock: Clock
) -> None:
    settings.SESSION_COOKIE_AGE, settings.SESSION_MAX_AGE = 2 * HOUR, DAY
    post(client, "bob")
    assert HOUR < seconds_left() <= 2 * HOUR
    clock.now += DAY - 60
    is_signed_in(client)
    assert seconds_left() <= 60


@pytest.mark.parametrize("should_continue", [True, False])
def test_ended_sessions_are_deleted(
    client: Client, bob: User, alice: User, should_continue: bool
) -> None:
    client.force_login(alice)
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    current = Client()
    current.force_login(bob)
    sessions.delete_expired(should_continue=lambda: should_continue)
    assert Session.objects.count() == (1 if should_continue else 2)
    assert is_signed_in(current)

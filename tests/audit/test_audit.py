"""Events of sign-ins, and what `record` stores."""

import pytest
from django.contrib.auth import authenticate
from django.test import Client

from keyportal.audit.models import Action, AppendOnlyError, AuditEvent
from keyportal.audit.source import acting_via
from keyportal.keys import keystring
from keyportal.teams.models import Membership, Team, User
from tests.conftest import PASSWORD


def post(client: Client, login: str, password: str = PASSWORD) -> None:
    data = {"login": login, "password": password}
    client.post("/accounts/login/", data, REMOTE_ADDR="192.0.2.1")


@pytest.mark.any_database
def test_a_sign_in_is_recorded_with_its_address(client: Client, team: Team, bob: User) -> None:
    post(client, "bob")
    row = AuditEvent.objects.for_team(team).get()
    assert (row.action, row.actor, row.target) == (Action.SIGNED_IN, "bob", "bob")
    assert row.address == "192.0.2.1"


@pytest.mark.any_database
def test_each_team_of_the_user_gets_an_event(
    client: Client, team: Team, other_team: Team, bob: User
) -> None:
    Team.objects.create(name="Nobody's")
    Membership.objects.create(team=other_team, user=bob)
    post(client, "bob")
    slugs = AuditEvent.objects.filter(action=Action.SIGNED_IN).values_list("team_slug", flat=True)
    assert sorted(slugs) == sorted([team.slug, other_team.slug])


@pytest.mark.any_database
def test_sign_in_of_a_user_without_team_is_recorded(client: Client, db: None) -> None:
    User.objects.create_user("root", password=PASSWORD)
    post(client, "root")
    row = AuditEvent.objects.exclude(action=Action.USER_CHANGED).get()
    assert (row.action, row.target, row.team_slug) == (Action.SIGNED_IN, "root", "")


@pytest.mark.any_database
@pytest.mark.parametrize("login", ["bob", "BOB", "bob@example.com"])
def test_a_failed_sign_in_has_a_target_but_no_actor(
    client: Client, team: Team, bob: User, login: str
) -> None:
    post(client, login, "wrong")
    row = AuditEvent.objects.for_team(team).get()
    assert (row.action, row.actor, row.target) == (Action.SIGN_IN_FAILED, "", "bob")
    assert row.address == "192.0.2.1"


@pytest.mark.any_database
@pytest.mark.parametrize(
    "typed",
    [PASSWORD, keystring.generate().text, "nobody", "b" * 4000],
    ids=["password", "key", "nobody", "long"],
)
def test_a_login_of_no_user_is_not_stored(client: Client, bob: User, typed: str) -> None:
    post(client, typed, "wrong")
    row = AuditEvent.objects.get()
    assert (row.action, row.target) == (Action.SIGN_IN_FAILED, "unknown user")
    assert (row.actor, row.team_slug, row.address) == ("", "", "192.0.2.1")


@pytest.mark.any_database
def test_sign_in_of_an_inactive_user_is_a_failure(client: Client, team: Team, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_active=False)
    post(client, "bob")
    assert AuditEvent.objects.for_team(team).get().action == Action.SIGN_IN_FAILED


def test_refused_attempts_are_recorded_once_a_minute(client: Client, team: Team, bob: User) -> None:
    for _ in range(7):
        post(client, "bob", "wrong")
    post(client, "bob")  # Even with the right password.
    *refused, _, _, _, _, _ = AuditEvent.objects.for_team(team)
    assert [row.target for row in refused] == ["bob: too many attempts"]
    assert (refused[0].action, refused[0].actor) == (Action.SIGN_IN_FAILED, "")
    assert refused[0].address == "192.0.2.1"
    assert AuditEvent.objects.count() == 6


@pytest.mark.any_database
def test_a_flood_of_unknown_names_is_recorded_once(client: Client, db: None) -> None:
    for number in range(12):
        post(client, f"name{number}", "wrong")
    newest = AuditEvent.objects.order_by("-id").values_list("target", flat=True)
    assert newest[0] == "unknown user: too many attempts"
    assert len(newest) == 11


@pytest.mark.any_database
def test_a_failure_outside_a_request_has_no_address(team: Team, bob: User) -> None:
    assert authenticate(None, username="bob", password="wrong") is None
    assert AuditEvent.objects.for_team(team).get().address is None


@pytest.mark.any_database
def test_via_is_recorded_inside_acting_via_only(team: Team, bob: User) -> None:
    with acting_via("management key deploy (7QmX2aPd)"):
        through = AuditEvent.objects.record(Action.KEY_CREATED, target="ci", actor=bob, team=team)
    after = AuditEvent.objects.record(Action.KEY_CREATED, target="ci", actor=bob, team=team)
    assert (through.actor, through.via) == ("bob", "management key deploy (7QmX2aPd)")
    assert after.via == ""


@pytest.mark.any_database
def test_actor_is_recorded_by_id_and_name_of_that_time(team: Team, bob: User) -> None:
    AuditEvent.objects.record(Action.KEY_CREATED, target="ci", actor=bob, team=team)
    AuditEvent.objects.record(Action.KEY_REMINDED, target="ci", team=team)
    User.objects.filter(pk=bob.pk).update(username="robert")
    rows = AuditEvent.objects.order_by("id").values_list("actor_id", "actor")
    assert [*rows] == [(bob.pk, "bob"), (None, "")]


@pytest.mark.any_database
def test_an_exception_ends_acting_via(team: Team) -> None:
    with pytest.raises(AppendOnlyError), acting_via("y" * 300):
        AuditEvent.objects.record(Action.KEY_CREATED, target="ci", team=team).delete()
    assert len(AuditEvent.objects.get().via) == 100
    assert AuditEvent.objects.record(Action.KEY_CREATED, target="ci", team=team).via == ""


@pytest.mark.any_database
@pytest.mark.django_db
def test_many_changes_are_split_over_several_events() -> None:
    AuditEvent.objects.record_changes(Action.KEY_CHANGED, target="x" * 75, changes=["y" * 60] * 3)
    AuditEvent.objects.record_changes(Action.KEY_CHANGED, target="z", changes=[])
    rows = [row.target for row in AuditEvent.objects.order_by("pk")]
    assert rows == ["x" * 75 + ": " + "y" * 60 + ", " + "y" * 60, "x" * 75 + ": " + "y" * 60]

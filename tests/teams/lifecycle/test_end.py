"""Switching a team off, and deleting it."""

from collections.abc import Callable
from functools import partial

import pytest
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError
from django.test import Client

from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.catalog.models import CatalogVersion, ServedModel
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import GracePeriod, rotate
from keyportal.teams.access import Outsider
from keyportal.teams.lifecycle import changes
from keyportal.teams.models import Membership, Role, Team, UsedSlug, User
from keyportal.teams.service_accounts.changes import create as create_account
from tests.support.commands import run
from tests.support.concurrency import run_concurrently

SETTINGS = "/teams/u-8105f7322477/settings/"
DELETE = f"{SETTINGS}delete/"
OFF = f"{SETTINGS}off/"
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.mark.any_database
def test_owner_switches_it_off(sign_in: SignIn, alice: User, team: Team, issue: Issue) -> None:
    issue(alice)
    client = sign_in(alice)
    assert "Its keys are refused" in client.get(OFF).content.decode()
    response = client.post(OFF, follow=True)
    assert "Acme is switched off." in response.content.decode()
    team.refresh_from_db()
    assert not team.is_active
    event = AuditEvent.objects.for_team(team).get(action=Action.TEAM_CHANGED)
    assert (event.target, event.actor) == ("Team: Is active: True → False", "alice")
    assert client.get(SETTINGS).status_code == 403
    assert client.post(DELETE, {"name": "Acme"}).status_code == 403
    run("setteam", team.slug, "--active")
    assert client.get(SETTINGS).status_code == 200


@pytest.mark.any_database
def test_page_says_what_stops(
    sign_in: SignIn, alice: User, bob: User, team: Team, issue: Issue
) -> None:
    issue(alice, "one")
    key, _ = issue(bob, "two")
    Secret.objects.filter(key=key).update(last_used_at=key.created_at)
    create_account(team, "ci", "ci@example.com", actor=None)
    response = sign_in(alice).get(DELETE)
    assert response.context["stops"] == {
        "API keys": 2,
        "of these, used in the last 24 hours": 1,
        "service accounts": 1,
        "members": 2,
    }


def test_owner_deletes_it_with_its_name(
    sign_in: SignIn, alice: User, bob: User, team: Team, model: ServedModel, issue: Issue
) -> None:
    key, key_string = issue(bob)
    rotated = rotate(key, GracePeriod.DAY, actor=None)
    ManagementKey.objects.issue(
        team=team, owner=alice, name="deploy", scopes=[Scope.KEYS_READ], actor=None
    )
    account = create_account(team, "ci", "ci@example.com", actor=None)
    version = CatalogVersion.objects.get().version
    client = sign_in(alice)
    for name in ("", "acme", "Other"):
        response = client.post(DELETE, {"name": name})
        assert response.status_code == 422
        assert "Enter the name of the team" in response.content.decode()
    assert ApiKey.objects.exists()
    response = client.post(DELETE, {"name": "Acme"}, follow=True)
    assert "Acme is deleted." in response.content.decode()

    assert not Team.objects.exists()
    assert not ApiKey.objects.exists()
    assert not ManagementKey.objects.exists()
    assert not ServedModel.objects.exists()
    assert not User.objects.filter(pk=account.pk).exists()
    assert User.objects.filter(pk=bob.pk).exists()
    assert CatalogVersion.objects.get().version != version
    digests = {keystring.digest(text.encode()) for text in (key_string, rotated.text)}
    assert {
        bytes(one.digest) for one in Tombstone.objects.filter(public_id=key.public_id)
    } == digests
    events = AuditEvent.objects.for_team(team)
    assert {event.actor for event in events.filter(action__in=["team:deleted", "key:deleted"])} == {
        "alice"
    }
    assert events.get(action=Action.KEY_DELETED).deleted_key == key.public_id
    assert events.filter(action=Action.MANAGEMENT_KEY_DELETED).exists()
    assert UsedSlug.objects.filter(slug=team.slug).exists()
    assert client.get(SETTINGS).status_code == 404


@pytest.mark.any_database
def test_deletion_ends_no_session(sign_in: SignIn, alice: User, other_team: Team) -> None:
    """A member of other teams goes on there."""
    Membership.objects.create(team=other_team, user=alice)
    client = sign_in(alice)
    client.post(DELETE, {"name": "Acme"})
    assert client.get(f"/teams/{other_team.slug}/keys/").status_code == 200


@pytest.mark.any_database
@pytest.mark.parametrize("role", [Role.MEMBER, Role.ADMIN])
def test_weaker_roles_end_nothing(sign_in: SignIn, bob: User, team: Team, role: Role) -> None:
    Membership.objects.filter(user=bob).update(role=role)
    client = sign_in(bob)
    assert OFF not in client.get(SETTINGS).content.decode()
    for page in (OFF, DELETE):
        assert client.post(page, {"name": "Acme"}).status_code == 403
    team.refresh_from_db()
    assert team.is_active


@pytest.mark.any_database
def test_owner_who_was_demoted_meanwhile_deletes_nothing(team: Team, alice: User) -> None:
    Membership.objects.filter(user=alice).update(role=Role.ADMIN)
    with pytest.raises(PermissionDenied, match="needs the role Owner"):
        changes.delete(team, "Acme", actor=alice)
    with pytest.raises(PermissionDenied, match="needs the role Owner"):
        changes.switch_off(team, actor=alice)
    assert Team.objects.filter(is_active=True).exists()


@pytest.mark.any_database
def test_name_that_changed_meanwhile_deletes_nothing(team: Team, alice: User) -> None:
    Team.objects.update(name="Nova")
    with pytest.raises(changes.WrongName):
        changes.delete(team, "Acme", actor=alice)
    assert Team.objects.exists()


@pytest.mark.any_database
def test_page_of_a_team_that_is_deleted_meanwhile_is_not_found(
    sign_in: SignIn, ada: User, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = sign_in(ada)

    def delete_first(*args: object, **more: object) -> None:
        monkeypatch.undo()
        changes.delete(team, "Acme", actor=None)
        changes.rename(*args, **more)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr("keyportal.teams.lifecycle.views.changes.rename", delete_first)
    assert client.post(SETTINGS, {"name": "Nova"}).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_two_owners_delete_at_once(team: Team, alice: User, bob: User, issue: Issue) -> None:
    Membership.objects.filter(user=bob).update(role=Role.OWNER)
    issue(alice)
    outcomes = run_concurrently(
        *(partial(_delete, team, owner) for owner in (alice, bob)),
    )
    assert sorted(map(str, outcomes)) == ["deleted", "gone"]
    assert AuditEvent.objects.filter(action=Action.TEAM_DELETED).count() == 1
    assert AuditEvent.objects.filter(action=Action.KEY_DELETED).count() == 1


@pytest.mark.django_db(transaction=True)
def test_key_that_is_created_while_the_team_is_deleted(
    team: Team, alice: User, bob: User, issue: Issue
) -> None:
    """It is deleted with the team, or was never created."""
    outcomes = run_concurrently(partial(_delete, team, alice), partial(_issue, team, bob))
    assert "deleted" in outcomes
    assert not Team.objects.exists()
    assert not ApiKey.objects.exists()
    created = AuditEvent.objects.filter(action=Action.KEY_CREATED).count()
    assert Tombstone.objects.count() == created


def _delete(team: Team, owner: User) -> str:
    try:
        changes.delete(team, "Acme", actor=owner)
    except (Team.DoesNotExist, Outsider):
        return "gone"
    return "deleted"


def _issue(team: Team, owner: User) -> str:
    try:
        ApiKey.objects.issue(team=team, owner=owner, name="test", actor=owner)
    except (Team.DoesNotExist, Outsider):
        return "gone"
    return "created"


@pytest.mark.any_database
def test_command(team: Team) -> None:
    with pytest.raises(CommandError, match="another one"):
        run("deleteteam", team.slug, "--name", "Nova")
    run("deleteteam", team.slug, "--name", "Acme")
    assert not Team.objects.exists()

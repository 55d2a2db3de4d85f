"""What a user who is deactivated or removed had does not work when they come back."""

from collections.abc import Callable
from functools import partial

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.test import AsyncClient, Client

from keyportal.api.models import ManagementKey
from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.changes import enable
from keyportal.keys.exceptions import ManagedByAdmin
from keyportal.keys.models import ApiKey
from keyportal.keys.rotation import GracePeriod, rotate
from keyportal.keys.status import State, state_of
from keyportal.leaks import handling
from keyportal.leaks.reports import OPERATOR, ReportContents, ReportedKey
from keyportal.teams.access import Outsider
from keyportal.teams.models import Membership, Role, Session, Team, User
from tests.support.concurrency import run_concurrently
from tests.support.forms import form_data

Issue = Callable[..., tuple[ApiKey, str]]


def deactivate(bob: User, is_active: bool = False) -> None:
    bob = User.objects.get(pk=bob.pk)
    bob.is_active = is_active
    bob.save(update_fields=["is_active"])


def remove(bob: User) -> None:
    call_command("removemember", Membership.objects.get(user=bob).team.slug, "bob")


ENDINGS: dict[str, tuple[Callable[[User], object], Callable[[User, Team], object]]] = {
    "deactivated": (deactivate, lambda bob, _: deactivate(bob, is_active=True)),
    "removed": (
        remove,
        lambda bob, team: Membership.objects.create(user=bob, team=team, role=Role.MEMBER),
    ),
}


@pytest.mark.any_database
@pytest.mark.parametrize("ending", ENDINGS)
def test_key_does_not_come_back_with_its_owner(
    team: Team, ada: User, bob: User, issue: Issue, ending: str
) -> None:
    key, _ = issue(bob)
    other, _ = issue(ada, "hers")
    end, bring_back = ENDINGS[ending]
    end(bob)
    bring_back(bob, team)
    key, other = (ApiKey.objects.for_display().get(pk=one.pk) for one in (key, other))
    assert (state_of(key), state_of(other)) == (State.DISABLED, State.ACTIVE)
    assert (key.disabled_by, key.is_managed) == ("admin", True)
    actions = AuditEvent.objects.for_key(key.public_id).values_list("action", flat=True)
    assert {Action.KEY_DISABLED, Action.KEY_MANAGED} <= {*actions}
    with pytest.raises(ManagedByAdmin):
        enable(key, actor=bob)
    rotate(key, GracePeriod.NOW, actor=bob)
    assert ApiKey.objects.get(pk=key.pk).disabled_at is not None
    enable(key, actor=ada)
    assert state_of(ApiKey.objects.for_display().get(pk=key.pk)) == State.ACTIVE


@pytest.mark.any_database
def test_leaked_key_of_a_former_member_is_not_enabled_by_a_rotation(
    ada: User, bob: User, issue: Issue
) -> None:
    key, text = issue(bob)
    handling.handle_report(ReportContents([ReportedKey(text)], OPERATOR))
    remove(bob)
    rotate(key, GracePeriod.NOW, actor=ada)
    key.refresh_from_db()
    assert (key.disabled_by, key.reported_at) == ("admin", None)


@pytest.mark.any_database
def test_keys_in_other_teams_go_on_after_a_removal(
    team: Team, other_team: Team, bob: User, issue: Issue
) -> None:
    Membership.objects.create(user=bob, team=other_team)
    key, _ = issue(bob, team=other_team)
    remove_from = Membership.objects.get(user=bob, team=team)
    remove_from.delete()
    assert ApiKey.objects.get(pk=key.pk).disabled_at is None
    deactivate(bob)
    assert ApiKey.objects.get(pk=key.pk).disabled_by == "admin"


@pytest.mark.parametrize("ending", ENDINGS)
def test_management_key_of_a_former_member_is_deleted(
    team: Team, alice: User, bob: User, ending: str
) -> None:
    for owner in (alice, bob):
        ManagementKey.objects.issue(
            team=team, owner=owner, actor=None, name=owner.username, scopes=[]
        )
    ENDINGS[ending][0](bob)
    assert [key.owner for key in ManagementKey.objects.all()] == [alice]
    (event,) = AuditEvent.objects.filter(action=Action.MANAGEMENT_KEY_DELETED)
    assert event.target.startswith("bob (")


@pytest.mark.any_database
@pytest.mark.parametrize("ending", ENDINGS)
def test_session_does_not_come_back(team: Team, ada: User, bob: User, ending: str) -> None:
    clients = {user: Client() for user in (ada, bob)}
    for user, client in clients.items():
        client.force_login(user)
    end, bring_back = ENDINGS[ending]
    end(bob)
    bring_back(bob, team)
    path = f"/teams/{team.slug}/keys/"
    assert clients[ada].get(path).status_code == 200
    assert clients[bob].get(path).status_code == 302
    assert Session.objects.count() == 1


def test_session_of_a_sign_in_during_the_deactivation_does_not_come_back(
    client: Client, team: Team, bob: User
) -> None:
    deactivate(bob)
    client.force_login(bob)  # The sign-in had read the user before.
    deactivate(bob, is_active=True)
    assert client.get(f"/teams/{team.slug}/keys/").status_code == 302


@pytest.mark.any_database
def test_deactivation_in_the_admin_names_the_operator(
    client: Client, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    client.force_login(User.objects.create_superuser("root", "root@example.com"))
    path = f"/admin/teams/user/{bob.pk}/change/"
    form = form_data(client.get(path))
    del form["is_active"]
    assert client.post(path, form).status_code == 302
    event = AuditEvent.objects.for_key(key.public_id).get(action=Action.KEY_DISABLED)
    assert (event.actor, event.address) == ("root", "127.0.0.1")


@pytest.mark.any_database
def test_operator_is_named_under_asgi_too(bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    client = AsyncClient()
    client.force_login(User.objects.create_superuser("root", "root@example.com"))
    path = f"/admin/teams/membership/{Membership.objects.get(user=bob).pk}/delete/"
    assert async_to_sync(client.post)(path, {"post": "yes"}).status_code == 302
    event = AuditEvent.objects.for_key(key.public_id).get(action=Action.KEY_DISABLED)
    assert event.actor == "root"


@pytest.mark.any_database
@pytest.mark.parametrize("path", ["disable", "delete"])
def test_viewer_ends_their_own_key_only(
    client: Client, team: Team, alice: User, bob: User, issue: Issue, path: str
) -> None:
    key, _ = issue(bob)
    other, _ = issue(alice, "hers")
    Membership.objects.filter(user=bob).update(role=Role.VIEWER)
    client.force_login(bob)
    base = f"/teams/{team.slug}/keys"
    page = client.get(f"{base}/{key.public_id}/").content.decode()
    assert f"/{key.public_id}/{path}/" in page
    assert f"/{key.public_id}/rotate/" not in page
    assert f"/{key.public_id}/edit/" not in page
    assert f"/{key.public_id}/delete/" in client.get(f"{base}/").content.decode()
    assert client.post(f"{base}/{other.public_id}/{path}/").status_code == 403
    assert client.get(f"{base}/{key.public_id}/{path}/").status_code == 200
    assert client.post(f"{base}/{key.public_id}/{path}/").status_code == 302
    assert client.post(f"{base}/{key.public_id}/enable/").status_code in {403, 404}
    working = ApiKey.objects.filter(disabled_at=None)
    assert [one.pk for one in working] == [other.pk]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("ending", ENDINGS)
def test_key_that_is_created_during_the_end_does_not_come_back(
    team: Team, bob: User, ending: str
) -> None:
    end, bring_back = ENDINGS[ending]
    for number in range(3):
        create = partial(
            ApiKey.objects.issue, team=team, owner=bob, actor=bob, name=f"key {number}"
        )
        created, _ = run_concurrently(create, partial(end, bob))
        bring_back(bob, team)
        assert isinstance(created, Outsider | tuple)
        assert not ApiKey.objects.filter(disabled_at=None).exists()

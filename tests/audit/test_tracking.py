"""Changes of people and model servers are in the audit, wherever they are made, without secrets."""

from io import StringIO

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.test import Client

from keyportal.audit.models import Action, AuditEvent
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.forms import form_data

pytestmark = pytest.mark.any_database
SECRET = "correct-horse-battery"


@pytest.fixture
def root(client: Client, db: None) -> Client:
    root = User.objects.create_superuser("root", "root@example.com")
    client.force_login(root)
    return client


def targets(action: Action, actor: str = "root") -> list[str]:
    events = AuditEvent.objects.filter(action=action, actor=actor).order_by("pk")
    return [event.target for event in events]


def test_changed_role_is_recorded_by_the_admin_and_by_a_command(
    root: Client, team: Team, bob: User
) -> None:
    path = f"/admin/teams/membership/{Membership.objects.get(user=bob).pk}/change/"
    assert root.post(path, form_data(root.get(path), role="admin")).status_code == 302
    call_command("setrole", team.slug, "bob", "viewer")
    call_command("removemember", team.slug, "bob")
    call_command("addmember", team.slug, "bob")
    events = AuditEvent.objects.for_team(team).filter(action=Action.MEMBER_CHANGED).order_by("pk")
    assert [(event.actor, event.address, event.target) for event in events] == [
        ("root", "127.0.0.1", "Member bob: Role: member → admin"),
        ("", None, "Member bob: Role: admin → viewer"),
        ("", None, "Member bob: deleted"),
        ("", None, "Member bob: created, Role: none → member"),
    ]


def test_role_that_is_changed_on_the_page_of_the_team_is_recorded(
    root: Client, team: Team, bob: User
) -> None:
    path = f"/admin/teams/team/{team.pk}/change/"
    form = form_data(root.get(path)) | {"memberships-0-role": "owner"}
    assert root.post(path, form).status_code == 302
    assert targets(Action.MEMBER_CHANGED) == ["Member bob: Role: member → owner"]


def test_changed_user_is_recorded(root: Client, bob: User) -> None:
    path = f"/admin/teams/user/{bob.pk}/change/"
    group = Group.objects.create(name="clerks")
    form = form_data(root.get(path), email="b@example.com", is_staff="on", groups=[group.pk])
    del form["is_active"]
    assert root.post(path, form).status_code == 302
    assert targets(Action.USER_CHANGED) == [
        "User bob: Email: bob@example.com → b@example.com, Active: yes → no, Staff: no → yes",
        "User bob: Groups added: clerks",
    ]


def test_password_set_by_another_is_recorded_without_it(root: Client, bob: User) -> None:
    data = {"password1": SECRET, "password2": SECRET, "usable_password": "true"}
    assert root.post(f"/admin/teams/user/{bob.pk}/password/", data).status_code == 302
    assert targets(Action.USER_CHANGED) == ["User bob: Password: changed"]
    hashed = User.objects.get(pk=bob.pk).password
    stored = str([*AuditEvent.objects.values_list()])
    assert SECRET not in stored
    assert hashed not in stored


def test_new_user_and_deleted_user_are_recorded(root: Client) -> None:
    call_command("adduser", "olga", "--superuser", stdout=StringIO(), stderr=StringIO())
    User.objects.get(username="olga").delete()
    created, deleted = targets(Action.USER_CHANGED, actor="")[-2:]
    assert created == (
        "User olga: created, Username: none → olga, Active: none → yes, Staff: none → yes, "
        "Superuser: none → yes"
    )
    assert deleted == "User olga: deleted"


def test_sign_in_is_no_change(client: Client, bob: User) -> None:
    client.force_login(bob)
    assert not AuditEvent.objects.filter(action=Action.USER_CHANGED).exists()


def test_changed_model_server_is_recorded_without_its_secrets(root: Client) -> None:
    upstream = Upstream(name="large", base_url="http://127.0.0.1:1/v1")
    upstream.credential = SECRET
    upstream.save()
    path = f"/admin/catalog/upstream/{upstream.pk}/change/"
    changes = {"read_timeout": "9", "credential": f"new-{SECRET}", "headers": f"X-Key: {SECRET}"}
    assert root.post(path, form_data(root.get(path), **changes)).status_code == 302
    assert targets(Action.CATALOG_CHANGED) == [
        "Model server large: Read timeout: 600.0 → 9.0, Credential: changed, Headers: changed"
    ]
    assert targets(Action.CATALOG_CHANGED, actor="")[0].startswith("Model server large: created")
    stored = str([*AuditEvent.objects.values_list()])
    assert SECRET not in stored
    assert upstream.encrypted_credential not in stored


def test_models_and_routes_are_recorded(team: Team) -> None:
    upstream = Upstream.objects.create(name="large", base_url="http://127.0.0.1:1/v1")
    ServedModel.objects.serve("public/x", team=None, upstream=upstream, upstream_model="x-1")
    route = Route.objects.get()
    route.weight = 3
    route.save(update_fields=["weight"])
    upstream.delete()
    found = targets(Action.CATALOG_CHANGED, actor="")
    created = found.index("Model server large: model added: public/x, route added: x-1")
    assert found[created:] == [
        "Model server large: model added: public/x, route added: x-1",
        "Route public/x → large/x-1: Weight: 1 → 3",
        "Route public/x → large/x-1: deleted",
        "Model server large: deleted",
    ]


def test_unchanged_row_is_not_recorded(team: Team, bob: User) -> None:
    before = AuditEvent.objects.count()
    bob.save()
    membership = Membership.objects.get(user=bob)
    membership.role = Role.MEMBER
    membership.save()
    assert AuditEvent.objects.count() == before

"""Staff users who are not superusers gain nothing by the pages of users and groups."""

from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission
from django.core.exceptions import ValidationError
from django.test import Client

from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.keys import keystring
from keyportal.teams.models import Team, User
from tests.conftest import PASSWORD
from tests.support.cases import own_case
from tests.support.forms import form_data

pytestmark = pytest.mark.any_database
PRIVILEGES = ("is_staff", "is_superuser", "groups", "user_permissions")
NEW_PASSWORD = "a new pair of horses"


@pytest.fixture
def root(db: None) -> User:
    return User.objects.create_superuser("root", "root@example.com", PASSWORD)


@pytest.fixture
def clerk(db: None) -> User:
    """A staff user who may do everything with users and groups."""
    clerk = User.objects.create_user("clerk", "clerk@example.com", PASSWORD, is_staff=True)
    clerk.user_permissions.set(
        Permission.objects.filter(content_type__model__in=["user", "group", "membership"])
    )
    return clerk


@pytest.fixture
def office(client: Client, clerk: User) -> Client:
    client.force_login(clerk)
    return client


def url(user: User, page: str = "change") -> str:
    return f"/admin/teams/user/{user.pk}/{page}/"


def privileges(user: User) -> dict[str, Any]:
    user = User.objects.get(pk=user.pk)
    return {
        "flags": (user.is_active, user.is_staff, user.is_superuser, user.email, user.password),
        "rights": ([*user.groups.all()], user.user_permissions.count()),
    }


def test_staff_user_gets_no_privileges(office: Client, clerk: User, bob: User) -> None:
    group = Group.objects.create(name="everything")
    wanted = {"is_staff": "on", "is_superuser": "on", "groups": group.pk, "user_permissions": "1"}
    for user in (clerk, bob):
        page = office.get(url(user))
        assert not any(f'name="{name}"' in page.content.decode() for name in PRIVILEGES)
        before = privileges(user)
        answer = office.post(url(user), form_data(page, first_name="Robert", **wanted))
        assert answer.status_code == 302
        assert privileges(user) == before
        assert User.objects.get(pk=user.pk).first_name == "Robert"


def test_staff_user_deactivates_a_member(office: Client, bob: User) -> None:
    form = form_data(office.get(url(bob)))
    del form["is_active"]
    assert office.post(url(bob), form).status_code == 302
    assert not User.objects.get(pk=bob.pk).is_active


def test_staff_user_changes_no_other_operator(office: Client, root: User) -> None:
    """Neither the password, nor the address to which a new one is mailed, nor whether they are
    active."""
    for target in ("root", "colleague"):
        with own_case(target):
            colleague = User.objects.create_user(
                "colleague", "colleague@example.com", is_staff=True
            )
            user = {"root": root, "colleague": colleague}[target]
            before = privileges(user)
            assert office.get(url(user)).status_code == 200  # They may see them.
            assert (
                office.post(url(user), {"username": "x", "email": "clerk@x.com"}).status_code == 403
            )
            for data in ({}, {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}):
                assert office.post(url(user, "password"), data).status_code == 403
            assert office.get(url(user, "password")).status_code == 403
            assert office.post(url(user, "delete"), {"post": "yes"}).status_code == 403
            selected = {"action": "delete_selected", "_selected_action": [user.pk], "post": "yes"}
            office.post("/admin/teams/user/", selected)
            assert privileges(user) == before


def test_staff_user_sees_no_flags_in_the_list(office: Client, root: User) -> None:
    assert "is_staff" not in office.get("/admin/teams/user/").content.decode()
    assert office.get("/admin/teams/user/?is_superuser__exact=1").status_code == 400


def test_groups_are_for_superusers(office: Client, clerk: User) -> None:
    for page in ("", "add/", "{}/change/", "{}/delete/"):
        with own_case(page):
            group = Group.objects.create(name="clerks")
            clerk.groups.add(group)
            path = f"/admin/auth/group/{page.format(group.pk)}"
            for answer in (
                office.get(path),
                office.post(path, {"name": "mine", "permissions": ["1"]}),
            ):
                assert answer.status_code == 403
            assert [one.name for one in Group.objects.all()] == ["clerks"]


def test_superuser_changes_privileges_and_passwords(client: Client, root: User, bob: User) -> None:
    client.force_login(root)
    form = form_data(client.get(url(bob)), is_staff="on")
    assert client.post(url(bob), form).status_code == 302
    assert User.objects.get(pk=bob.pk).is_staff
    data = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD, "usable_password": "true"}
    assert client.post(url(bob, "password"), data).status_code == 302
    assert User.objects.get(pk=bob.pk).check_password(NEW_PASSWORD)


@pytest.mark.parametrize("column", ["username", "first_name", "last_name"])
def test_key_is_not_stored_as_a_name_of_a_user(bob: User, column: str) -> None:
    setattr(bob, column, f"a-{keystring.generate().text}")
    with pytest.raises(ValidationError, match="contains an API key") as refusal:
        bob.full_clean()
    assert list(refusal.value.message_dict) == [column]


def test_key_is_not_stored_as_another_name(team: Team, db: None) -> None:
    key = keystring.generate().text
    things = [
        Team(name=key),
        Upstream(name=key, base_url="http://127.0.0.1/v1"),
        Upstream(name="server", base_url=f"http://127.0.0.1/v1?key={key}"),
        ServedModel(name=key),
        Route(upstream_model=key),
    ]
    for thing in things:
        with pytest.raises(ValidationError, match="contains an API key"):
            thing.clean_fields()


def test_key_is_not_stored_as_the_name_of_a_group(client: Client, root: User) -> None:
    client.force_login(root)
    answer = client.post("/admin/auth/group/add/", {"name": keystring.generate().text})
    assert "contains an API key" in answer.content.decode()
    assert not Group.objects.exists()

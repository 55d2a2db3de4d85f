"""SCIM: groups give roles in teams, and take them back at once."""

import json
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.test import Client
from pytest_django import Settings

from keyportal.teams.models import Membership, Team, User
from tests.api.scim.conftest import Directory
from tests.support.cases import own_case

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]


@pytest.fixture(autouse=True)
def mapping(settings: Settings, team: Team, other_team: Team) -> None:
    settings.SCIM_GROUPS = {
        "staff": {team.slug: "member"},
        "leads": {team.slug: "admin", other_team.slug: "viewer"},
    }


@pytest.fixture
def dora(db: None) -> User:
    return User.objects.create_user("dora", "dora@example.com")


@pytest.fixture
def staff(directory: Directory, dora: User) -> str:
    """The path of a group with Dora in it."""
    body = {"displayName": "staff", "externalId": "g1", "members": [{"value": str(dora.pk)}]}
    answer = directory("POST", "Groups", body)
    assert answer.status_code == 201
    return f"Groups/{answer.data['id']}"


def roles_of(user: User) -> dict[str, tuple[str, str]]:
    memberships = Membership.objects.filter(user=user)
    return {each.team.name: (each.role, each.granted_by) for each in memberships}


def operations(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"Operations": list(steps)}


def test_members_get_roles_and_lose_them_with_the_group(
    directory: Directory, dora: User, staff: str
) -> None:
    assert roles_of(dora) == {"Acme": ("member", "scim")}
    assert [each["value"] for each in directory("GET", staff).data["members"]] == [str(dora.pk)]
    assert directory("DELETE", staff).status_code == 204
    assert roles_of(dora) == {}
    assert directory("GET", staff).status_code == 404


def test_removed_member_loses_the_role(directory: Directory, dora: User, staff: str) -> None:
    for step in (
        '{"op": "Remove", "path": "members", "value": [{"value": "DORA"}]}',
        '{"op": "remove", "path": "members[value eq \\"DORA\\"]"}',
        '{"op": "remove", "path": "members"}',
        '{"op": "replace", "path": "members", "value": []}',
        '{"op": "replace", "value": {"members": []}}',
        '{"op": "replace", "path": "displayName", "value": "former staff"}',
        '{"op": "replace", "value": {"id": "1", "displayName": "former staff"}}',
    ):
        with own_case(step):
            answer = directory(
                "PATCH", staff, operations(json.loads(step.replace("DORA", str(dora.pk))))
            )
            assert answer.status_code == 200
            assert roles_of(dora) == {}


def test_added_member_gets_the_strongest_role(
    directory: Directory, dora: User, bob: User, staff: str
) -> None:
    leads = f"Groups/{directory('POST', 'Groups', {'displayName': 'leads'}).data['id']}"
    people = [{"value": str(dora.pk)}, {"value": str(bob.pk)}]
    directory("PATCH", leads, operations({"op": "Add", "path": "members", "value": people}))
    assert roles_of(dora) == {"Acme": ("admin", "scim"), "Charlie's": ("viewer", "scim")}
    # His role in Acme was given by hand.
    assert roles_of(bob) == {"Acme": ("member", ""), "Charlie's": ("viewer", "scim")}
    directory("PUT", leads, {"displayName": "leads", "members": []})
    assert roles_of(dora) == {"Acme": ("member", "scim")}
    assert roles_of(bob) == {"Acme": ("member", "")}


def test_deleted_person_leaves_groups_and_teams(
    directory: Directory, dora: User, staff: str
) -> None:
    assert directory("DELETE", f"Users/{dora.pk}").status_code == 204
    assert roles_of(dora) == {}
    assert directory("GET", staff).data["members"] == []


def test_groups_are_found_and_listed_without_members(directory: Directory, staff: str) -> None:
    for text in ('displayName eq "STAFF"', 'externalId eq "g1"'):
        found = directory("GET", "Groups", filter=text, excludedAttributes="members").data
        assert found["totalResults"] == 1
        assert "members" not in found["Resources"][0]
    assert directory("GET", "Groups", filter='displayName eq "none"').data["totalResults"] == 0
    assert "members" not in directory("GET", staff, excludedAttributes="members").data
    assert len(directory("GET", "Groups").data["Resources"][0]["members"]) == 1


def test_wrong_groups_are_errors(directory: Directory, staff: str) -> None:
    cases: list[tuple[dict[str, Any], int]] = [
        ({"displayName": "Staff"}, 409),
        ({"displayName": " "}, 400),
        ({"displayName": 7}, 400),
        ({}, 400),
        ({"displayName": "x", "members": [{"value": "999999"}]}, 400),
        ({"displayName": "x", "members": [{"value": "1 OR 1=1"}]}, 400),
        ({"displayName": "x", "members": "all"}, 400),
    ]
    for body, status in cases:
        with own_case(body, status):
            assert directory("POST", "Groups", body).status_code == status
            assert directory("GET", "Groups").data["totalResults"] == 1


def test_service_account_is_no_member(directory: Directory, team: Team, staff: str) -> None:
    robot = User.objects.create_user("robot", service_team=team)
    step = {"op": "add", "path": "members", "value": [{"value": str(robot.pk)}]}
    assert directory("PATCH", staff, operations(step)).status_code == 400


def test_account_whose_address_was_never_proved_does_not_get_the_roles_for_its_maker(
    directory: Directory, dora: User, staff: str
) -> None:
    """Attack: an admin invites Dora's address, makes the account with the link that is shown, and
    waits for the directory to put it into teams.
    """
    members = [{"value": str(dora.pk)}]
    directory("PUT", staff, {"displayName": "staff", "members": []})
    dora.set_password("known to the admin")
    dora.save()
    EmailAddress.objects.create(user=dora, email=dora.email, primary=True, verified=False)
    admins = Client()
    admins.force_login(dora)
    directory("PUT", staff, {"displayName": "staff", "members": members})
    dora.refresh_from_db()
    assert roles_of(dora)
    assert not dora.has_usable_password()
    assert admins.get("/").status_code == 302
    assert EmailAddress.objects.get().verified

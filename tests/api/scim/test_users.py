"""SCIM: people are made, found, changed and deactivated, as Okta and Entra ask for it."""

from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.test import Client
from pytest_django import Settings

from keyportal.api.framework import throttling
from keyportal.api.models import ProvisionedUser
from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.operators.people import set_active
from keyportal.teams.models import Team, User
from tests.api.scim.conftest import TOKEN, Directory
from tests.support.cases import own_case
from tests.support.clock import MINUTE, ensure_time_left
from tests.support.concurrency import run_concurrently

pytestmark = pytest.mark.django_db
DORA = "dora@example.com"
ENTRA = {
    "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
    "externalId": "0a21f0f2-8d2a-4f8e-bf98-7363c4aed4ef",
    "userName": "Dora.Roe@example.com",
    "active": True,
    "emails": [
        {"value": "old@example.com", "type": "home"},
        {"primary": True, "type": "work", "value": "Dora@example.com"},
    ],
    "name": {"formatted": "Dora Roe", "givenName": "Dora", "familyName": "Roe"},
    "title": "Engineer",
}


def patch(**operation: Any) -> dict[str, Any]:
    schema = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
    return {"schemas": [schema], "Operations": [{"op": "Replace", **operation}]}


@pytest.fixture
def dora(directory: Directory) -> User:
    assert directory("POST", "Users", ENTRA).status_code == 201
    return User.objects.get(email="dora@example.com")


@pytest.mark.any_database
def test_person_is_made(directory: Directory) -> None:
    answer = directory("POST", "Users", ENTRA)
    user = User.objects.get()
    assert (user.username, user.email) == ("dora.roe", "dora@example.com")
    assert (user.first_name, user.last_name, user.is_active) == ("Dora", "Roe", True)
    assert (user.has_usable_password(), user.is_staff, user.is_superuser) == (False, False, False)
    assert answer.status_code == 201
    assert answer.data["userName"] == "Dora.Roe@example.com"
    assert answer.data["externalId"] == ENTRA["externalId"]
    assert answer.data["emails"] == [{"value": user.email, "type": "work", "primary": True}]
    assert answer.data["meta"]["location"].endswith(f"/api/scim/v2/Users/{user.pk}")
    assert directory("GET", f"Users/{user.pk}").data == answer.data
    assert directory("POST", "Users", ENTRA).data["scimType"] == "uniqueness"
    event = AuditEvent.objects.filter(action=Action.USER_CHANGED).order_by("id")[0]
    assert event.target.startswith("User dora.roe: created")
    assert (event.via, event.actor) == ("SCIM", "")


def test_person_is_found(directory: Directory, dora: User, bob: User) -> None:
    for text in (
        'userName eq "dora.roe@EXAMPLE.com"',
        'externalId eq "0a21f0f2-8d2a-4f8e-bf98-7363c4aed4ef"',
        'emails[type eq "work"].value eq "dora@example.com"',
        'emails.value EQ "dora@example.com"',
    ):
        with own_case(text):
            found = directory("GET", "Users", filter=text).data
            assert (found["totalResults"], found["itemsPerPage"], found["startIndex"]) == (1, 1, 1)
            assert found["Resources"][0]["id"] == str(dora.pk)


def test_nobody_is_found(directory: Directory, bob: User) -> None:
    for text in ('userName eq "nobody"', 'id eq "x"', 'userName eq "\\u0000"', 'externalId eq ""'):
        with own_case(text):
            assert directory("GET", "Users", filter=text).data["totalResults"] == 0


@pytest.mark.any_database
def test_other_filters_are_errors(directory: Directory, bob: User) -> None:
    for text in (
        "userName",
        'password eq "x"',
        'userName sw "d"',
        'userName eq "a" or userName eq "b"',
        '"',
    ):
        with own_case(text):
            answer = directory("GET", "Users", filter=text)
            assert (answer.status_code, answer.data["scimType"]) == (400, "invalidFilter")


def test_person_who_is_here_already_is_found_by_address(directory: Directory, bob: User) -> None:
    found = directory("GET", "Users", filter='userName eq "BOB@example.com"').data
    assert found["Resources"][0]["id"] == str(bob.pk)
    body = ENTRA | {"userName": "bob@example.com", "emails": []}
    assert directory("POST", "Users", body).status_code == 409
    path = f"Users/{bob.pk}"
    directory("PATCH", path, patch(path="externalId", value="ext"))
    assert directory("GET", "Users", filter='externalId eq "ext"').data["totalResults"] == 1


def test_lists_have_pages(directory: Directory, bob: User, alice: User, vera: User) -> None:
    first = directory("GET", "Users", startIndex="1", count="2").data
    second = directory("GET", "Users", startIndex="3", count="2").data
    ids = [row["id"] for page in (first, second) for row in page["Resources"]]
    assert ids == [str(user.pk) for user in User.objects.order_by("pk")]
    assert (first["totalResults"], second["itemsPerPage"]) == (3, 1)
    assert directory("GET", "Users", count="0").data["Resources"] == []
    assert directory("GET", "Users", startIndex="-5").data["startIndex"] == 1
    assert directory("GET", "Users", count="many").status_code == 400


@pytest.mark.any_database
def test_service_accounts_are_not_people(directory: Directory, team: Team) -> None:
    robot = User.objects.create_user("robot", service_team=team)
    assert directory("GET", "Users").data["totalResults"] == 0
    assert (
        directory("PATCH", f"Users/{robot.pk}", patch(path="active", value=False)).status_code
        == 404
    )


@pytest.mark.any_database
def test_deactivation_ends_sessions_and_keys(directory: Directory, bob: User, issue: Any) -> None:
    cases: list[dict[str, Any]] = [
        patch(path="active", value="False"),  # Entra
        patch(value={"active": False}),  # Okta
        patch(path="urn:ietf:params:scim:schemas:core:2.0:User:active", value=False),
    ]
    for body in cases:
        with own_case(body):
            key, _ = issue(bob)
            browser = Client()
            browser.force_login(bob)
            answer = directory("PATCH", f"Users/{bob.pk}", body)
            assert (answer.status_code, answer.data["active"]) == (200, False)
            bob.refresh_from_db()
            assert not bob.is_active
            assert browser.get("/").status_code == 302
            assert ApiKey.objects.get(pk=key.pk).disabled_at is not None
            event = AuditEvent.objects.get(action=Action.USER_CHANGED)
            assert event.target == "User bob: Active: yes → no, Off by directory: no → yes"
            assert (event.via, event.actor, event.address) == ("SCIM", "", "127.0.0.1")
            # And back. The key stays disabled until an admin enables it.
            directory("PATCH", f"Users/{bob.pk}", patch(path="active", value="True"))
            assert User.objects.get(pk=bob.pk).is_active
            assert ApiKey.objects.get(pk=key.pk).disabled_at is not None


ON, OFF = ({"active": value} for value in (True, False))
BY_OPERATOR = "operator"


@pytest.mark.any_database
def test_whom_an_operator_deactivated_stays_so(directory: Directory, dora: User) -> None:
    """Attack: somebody with a stolen laptop is still assigned in the directory."""
    cases: list[tuple[list[Any], int]] = [
        ([BY_OPERATOR, ON], 403),
        ([BY_OPERATOR, OFF, ON], 403),
        ([OFF, BY_OPERATOR, ON], 403),
        ([OFF, ON, BY_OPERATOR, ON], 403),
        ([OFF, "operator activates", "admin", ON], 403),
        ([OFF, "operator activates", OFF, ON], 200),
        ([BY_OPERATOR, "operator activates", OFF, ON], 200),
    ]
    for acts, status in cases:
        with own_case(acts, status):
            olga = User.objects.create_superuser("olga")
            path = f"Users/{dora.pk}"
            for act in acts:
                if act == "admin":
                    row = User.objects.get(pk=dora.pk)
                    row.is_active = False
                    row.save(update_fields=["is_active"])
                elif isinstance(act, str):
                    set_active(dora, is_active=act != BY_OPERATOR, actor=olga)
                else:
                    answer = directory("PATCH", path, patch(value=act))
            assert answer.status_code == status
            assert directory("GET", path).data["active"] is (status == 200)
            if status == 403:
                assert directory("PUT", path, ENTRA | {"active": True}).status_code == 403
                assert directory("DELETE", path).status_code == 204
                assert directory("POST", "Users", ENTRA).status_code == 403
                assert not User.objects.get(pk=dora.pk).is_active


@pytest.mark.any_database
def test_session_of_a_person_is_not_in_the_audit(
    directory: Directory, bob: User, alice: User
) -> None:
    """Attack: a change by the token looks like one by whoever is signed in."""
    browser = Client()
    browser.force_login(alice)
    browser.patch(
        f"/api/scim/v2/Users/{bob.pk}",
        patch(path="active", value=False),
        content_type="application/json",
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    assert AuditEvent.objects.get(action=Action.USER_CHANGED).actor == ""


@pytest.mark.any_database
def test_details_are_changed(directory: Directory, dora: User) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (patch(path="name.givenName", value="Theodora"), {"first_name": "Theodora"}),
        (patch(path="name", value={"familyName": "Poe"}), {"last_name": "Poe"}),
        (patch(value={"name.familyName": "Poe"}), {"last_name": "Poe"}),
        (patch(op="remove", path="name.familyName"), {"last_name": ""}),
        (
            patch(path='emails[type eq "work"].value', value="T@example.com"),
            {"email": "t@example.com"},
        ),
        (
            patch(op="Add", path="emails", value=[{"value": "t@example.com"}]),
            {"email": "t@example.com"},
        ),
        (
            patch(path='emails[type eq "home"].value', value="t@example.com"),
            {"email": "dora@example.com"},
        ),
        (patch(path="title", value="Boss"), {"first_name": "Dora"}),
        (patch(path="is_superuser", value=True), {"is_superuser": False}),
        (patch(path="password", value="staple battery"), {"email": DORA}),
    ]
    for body, expected in cases:
        with own_case(body, expected):
            assert directory("PATCH", f"Users/{dora.pk}", body).status_code == 200
            dora.refresh_from_db()
            assert {name: getattr(dora, name) for name in expected} == expected
            assert not dora.has_usable_password()


@pytest.mark.any_database
def test_whole_person_is_replaced(directory: Directory, dora: User) -> None:
    body = ENTRA | {"userName": "theodora", "active": False, "name": {"givenName": "T"}}
    answer = directory("PUT", f"Users/{dora.pk}", body)
    assert (answer.data["userName"], answer.data["active"]) == ("theodora", False)
    dora.refresh_from_db()
    assert (dora.username, dora.first_name, dora.last_name) == ("dora.roe", "T", "Roe")


@pytest.mark.any_database
def test_wrong_changes_are_errors(directory: Directory, dora: User, bob: User) -> None:
    cases: list[tuple[Any, int]] = [
        (patch(path="emails", value=[{"value": "bob@example.com"}]), 409),
        (patch(path="userName", value=""), 400),
        (patch(path="userName", value="x" * 255), 400),
        (patch(path="userName", value="nul\0"), 400),
        (patch(path="userName", value=keystring.generate().text), 400),
        (patch(path="emails", value=[{"value": "no address"}]), 400),
        (patch(path="emails", value=["dora@example.com"]), 400),
        (patch(path="active", value="maybe"), 400),
        (patch(op="remove", path="active"), 400),
        (patch(op="move", path="active"), 400),
        (patch(value=7), 400),
        ({"Operations": 7}, 400),
        ([], 400),
        ("{", 400),
        ("[" * 100_000, 400),
    ]
    for body, status in cases:
        with own_case(body, status):
            answer = directory("PATCH", f"Users/{dora.pk}", body)
            assert answer.status_code == status, answer.data
            if status >= 400:
                assert answer.data["status"] == str(status)
                assert answer.data["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:Error"]
                dora.refresh_from_db()
                assert (dora.email, dora.is_active) == ("dora@example.com", True)


def test_deleted_person_is_gone_and_can_come_back(directory: Directory, dora: User) -> None:
    path = f"Users/{dora.pk}"
    assert directory("DELETE", path).status_code == 204
    for method in ("GET", "DELETE"):
        assert directory(method, path).status_code == 404
    assert directory("GET", "Users").data["totalResults"] == 0
    dora.refresh_from_db()
    assert not dora.is_active
    assert directory("POST", "Users", ENTRA).data["id"] == str(dora.pk)
    dora.refresh_from_db()
    assert dora.is_active


@pytest.mark.any_database
def test_operators_keep_their_names_and_addresses(
    directory: Directory, alice: User, bob: User
) -> None:
    """Attack: whoever has the token gives a superuser an address of their own."""
    User.objects.filter(pk__in=(alice.pk, bob.pk)).update(is_superuser=True, is_staff=True)
    path = f"Users/{bob.pk}"
    body = patch(path="emails", value=[{"value": "evil@example.com"}])
    assert directory("PATCH", path, body).status_code == 403
    assert directory("PATCH", path, patch(path="active", value=False)).status_code == 200
    assert directory("PATCH", path, patch(path="active", value=True)).status_code == 403
    last = directory("PATCH", f"Users/{alice.pk}", patch(path="active", value=False))
    assert (last.status_code, last.data["detail"]) == (409, "This is the last active superuser.")
    assert directory("DELETE", f"Users/{alice.pk}").status_code == 409


@pytest.mark.any_database
def test_wrong_tokens_open_nothing(directory: Directory, bob: User) -> None:
    cases: list[str] = [
        "",
        "Bearer ",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer é",
    ]
    for header in cases:
        with own_case(header):
            for method, path in (
                ("GET", "Users"),
                ("DELETE", f"Users/{bob.pk}"),
                ("GET", "nowhere"),
            ):
                answer = directory(
                    method, path, headers={"Authorization": header} if header else {}
                )
                assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")
            assert User.objects.get().is_active


@pytest.mark.any_database
def test_wrong_tokens_are_limited_and_the_right_one_is_not(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttling, "FAILURES_PER_MINUTE", 2)
    ensure_time_left(10, MINUTE)
    wrong = {"Authorization": "Bearer wrong"}
    statuses = [directory("GET", "Users", headers=wrong).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert directory("GET", "Users").status_code == 200


@pytest.mark.any_database
def test_older_token_works_while_both_are_set(directory: Directory, settings: Settings) -> None:
    older = {"Authorization": f"Bearer older-{TOKEN}"}
    assert directory("GET", "Users", headers=older).status_code == 200
    settings.SCIM_TOKENS = []
    assert directory("GET", "Users").status_code == 404


@pytest.mark.any_database
def test_directory_is_told_what_is_supported(directory: Directory) -> None:
    found = directory("GET", "ServiceProviderConfig").data
    assert (found["patch"]["supported"], found["bulk"]["supported"]) == (True, False)
    types = directory("GET", "ResourceTypes").data["Resources"]
    assert [each["endpoint"] for each in types] == ["/Users", "/Groups"]
    assert directory("POST", "ResourceTypes").status_code == 405
    assert directory("GET", "Me").status_code == 404
    assert directory("GET", f"Users/{'9' * 30}").status_code == 404
    assert directory("GET", "Users/x").status_code == 404


@pytest.mark.django_db(transaction=True)
def test_two_requests_make_one_person(directory: Directory) -> None:
    def make() -> object:
        return directory("POST", "Users", ENTRA).status_code

    statuses = run_concurrently(make, make)
    assert {*statuses} == {201, 409}
    assert User.objects.count() == ProvisionedUser.objects.count() == 1


@pytest.mark.any_database
def test_account_whose_address_was_never_proved_is_not_its_makers_any_more(
    directory: Directory,
) -> None:
    user = User.objects.create_user("dora", DORA, "known to an admin who invited this address")
    EmailAddress.objects.create(user=user, email=DORA, primary=True, verified=False)
    directory("PATCH", f"Users/{user.pk}", patch(path="active", value=True))
    user.refresh_from_db()
    assert not user.has_usable_password()
    assert EmailAddress.objects.get().verified

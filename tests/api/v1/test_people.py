"""Members and invitations by program: the same rules as on the pages."""

import pytest
from django.core import mail
from django.core.cache import cache
from django.test import Client
from pytest_django import Settings

from keyportal.audit.models import AuditEvent
from keyportal.people.models import Invitation
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.service_accounts import changes as service_accounts
from tests.conftest import make_person
from tests.support.api_client import NewApiClient, assert_problem
from tests.support.cases import own_case

pytestmark = pytest.mark.any_database


@pytest.fixture(autouse=True)
def fresh_limits(db: None) -> None:
    cache.clear()


def role_of(user: User) -> str:
    return str(Membership.objects.get(user=user).role)


def test_role_is_changed_and_recorded_with_the_program(
    new_api_client: NewApiClient, ada: User, alice: User, bob: User, team: Team
) -> None:
    """Attack: the program also sends the cookie of alice's session, to act in her name."""
    program = new_api_client(ada)
    program.client.force_login(alice)
    answer = program.patch("members/bob", {"role": "admin"})
    assert answer.status_code == 200
    assert (answer.json()["username"], answer.json()["role"]) == ("bob", "admin")
    assert role_of(bob) == "admin"
    event = AuditEvent.objects.for_team(team).get(target="Member bob: Role: member → admin")
    assert (event.actor, event.via, event.address) == (
        "ada",
        f"management key {program.key}",
        "127.0.0.1",
    )


def test_members_are_removed(new_api_client: NewApiClient, ada: User, bob: User) -> None:
    program = new_api_client(ada)
    assert program.delete("members/bob").status_code == 204
    assert not Membership.objects.filter(user=bob).exists()
    assert_problem(program.delete("members/bob"), 404, "not-found")


def test_programs_of_admins_leave_owners_alone(
    new_api_client: NewApiClient, ada: User, bob: User, alice: User
) -> None:
    program = new_api_client(ada)
    for answer in (
        program.patch("members/bob", {"role": "owner"}),
        program.patch("members/alice", {"role": "viewer"}),
        program.delete("members/alice"),
        program.post("invitations", {"email": "carol@example.com", "role": "owner"}),
    ):
        assert "Only an owner" in assert_problem(answer, 403, "weak-role")["detail"]
    assert (role_of(bob), role_of(alice)) == ("member", "owner")


def test_last_owner_stays(new_api_client: NewApiClient, alice: User, team: Team) -> None:
    program = new_api_client(alice)
    for answer in (
        program.patch("members/alice", {"role": "admin"}),
        program.delete("members/alice"),
    ):
        assert "the last owner" in assert_problem(answer, 409, "conflict")["detail"]
    make_person("olga", team, Role.OWNER)
    assert program.patch("members/alice", {"role": "admin"}).json()["role"] == "admin"


def test_members_of_other_teams_are_not_found(
    new_api_client: NewApiClient, alice: User, charlie: User
) -> None:
    program = new_api_client(alice)
    assert_problem(program.patch("members/charlie", {"role": "viewer"}), 404, "not-found")
    assert_problem(program.delete("members/charlie"), 404, "not-found")
    assert role_of(charlie) == "owner"


def test_invitation_is_created_listed_used_and_revoked(
    new_api_client: NewApiClient, ada: User, client: Client
) -> None:
    program = new_api_client(ada)
    answer = program.post("invitations", {"email": "Carol@Example.com", "note": "Hi"})
    assert answer.status_code == 201
    created = answer.json()
    url = created.pop("url")
    assert (created["email"], created["role"], created["note"], created["invited_by"]) == (
        "carol@example.com",
        "member",
        "Hi",
        "ada",
    )
    assert program.get("invitations").json()["data"] == [created]
    path = url[url.index("/invitations/") :]
    assert "carol@example.com" in client.get(path).content.decode()
    assert program.delete(f"invitations/{created['id']}").status_code == 204
    assert client.get(path).status_code == 410
    assert_problem(program.delete(f"invitations/{created['id']}"), 404, "not-found")
    assert program.get("invitations").json()["data"] == []


def test_mailed_link_is_not_in_the_response(
    new_api_client: NewApiClient, ada: User, bob: User, settings: Settings
) -> None:
    """And the response does not tell whether the address has an account."""
    settings.OUTBOX_EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.PUBLIC_URL = "https://keys.example.com"
    settings.IS_HTTPS = False
    program = new_api_client(ada)
    answers = [
        program.post("invitations", {"email": f"{name}@example.com"}).json()
        for name in ("bob", "nobody")
    ]
    assert [answer["url"] for answer in answers] == [None, None]
    assert {*answers[0]} == {*answers[1]}
    assert len(mail.outbox) == 2


def test_wrong_fields_are_named(new_api_client: NewApiClient, ada: User) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({"email": "carol"}, "/email"),
        ({"email": "a@example.com, b@example.com"}, "/email"),
        ({"email": "a@example.com", "note": "two\nlines"}, "/note"),
        ({"email": "a@example.com", "role": "king"}, "/role"),
    ]
    program = new_api_client(ada)
    for body, pointer in cases:
        with own_case(body, pointer):
            problem = assert_problem(program.post("invitations", body), 422, "invalid")
            assert [error["pointer"] for error in problem["errors"]] == [pointer]
            assert not Invitation.objects.exists()


def test_strangers_are_not_mailed_without_end(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada)
    for _ in range(5):
        assert program.post("invitations", {"email": "carol@example.com"}).status_code == 201
    answer = program.post("invitations", {"email": "carol@example.com"})
    assert_problem(answer, 429, "too-many-requests")
    assert answer["Retry-After"] == "3600"


def test_invitations_of_other_teams_are_not_found(
    new_api_client: NewApiClient, ada: User, other_team: Team
) -> None:
    other = Invitation.objects.create(team=other_team, email="x@example.com", role=Role.VIEWER)
    program = new_api_client(ada)
    assert_problem(program.delete(f"invitations/{other.pk}"), 404, "not-found")
    assert program.get("invitations").json()["data"] == []
    assert Invitation.objects.get() == other


def test_service_account_is_always_a_member(
    new_api_client: NewApiClient, alice: User, team: Team
) -> None:
    account = service_accounts.create(team, "ci", "ci@example.com", actor=None)
    program = new_api_client(alice)
    path = f"members/{account.username}"
    for answer in (program.patch(path, {"role": "admin"}), program.delete(path)):
        assert "always a member" in assert_problem(answer, 409, "conflict")["detail"]
    client = Client()
    client.force_login(alice)
    for page in ("role", "remove"):
        assert client.get(f"/teams/{team.slug}/members/{account.pk}/{page}/").status_code == 404

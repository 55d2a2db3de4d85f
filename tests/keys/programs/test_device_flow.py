"""Sign-in for programs, as a program and a person see it."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db.models import F
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.keys import changes
from keyportal.keys.exceptions import EndsWithSession
from keyportal.keys.models import ApiKey, ProgramSignIn
from keyportal.keys.programs import device_flow
from keyportal.notifications.reminders import send_reminders
from keyportal.teams.models import Membership, Role, Session, Team, User
from keyportal.teams.policy import Policy
from tests.support.clock import host

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
GRANT = "urn:ietf:params:oauth:grant-type:device_code"
CLIENT = "coding-agent"
SignIn = Callable[[User], Client]


@pytest.fixture(autouse=True)
def fresh_limits() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def program() -> Client:
    """It has no session, and sends no CSRF token."""
    return Client(enforce_csrf_checks=True, REMOTE_ADDR="198.51.100.7")


def begin(program: Client, client_id: str = CLIENT) -> Any:
    answer = program.post("/oauth/device_authorization", {"client_id": client_id})
    assert answer.status_code == 200
    assert answer["Cache-Control"] == "no-store"
    return answer.json()


def poll(program: Client, device_code: str, client_id: str = CLIENT) -> Any:
    """The next poll, at the time that the program was told."""
    ProgramSignIn.objects.update(polled_at=F("polled_at") - timedelta(minutes=1))
    fields = {"grant_type": GRANT, "device_code": device_code, "client_id": client_id}
    return program.post("/oauth/token", fields)


def error(answer: Any) -> str:
    assert answer.status_code == 400
    return str(answer.json()["error"])


def let_in(person: Client, user_code: str, team: str = "u-8105f7322477") -> Any:
    return person.post("/device/approve/", {"code": user_code, "team": team})


def signed_in(program: Client, person: Client) -> tuple[ApiKey, str]:
    codes = begin(program)
    assert let_in(person, codes["user_code"]).status_code == 200
    answer = poll(program, codes["device_code"])
    assert answer.status_code == 200, answer.content
    return ApiKey.objects.get(program_sign_in__isnull=False), answer.json()["access_token"]


def test_metadata_names_the_addresses(program: Client) -> None:
    found = program.get("/.well-known/oauth-authorization-server").json()
    base = found["issuer"]
    assert found["device_authorization_endpoint"] == f"{base}/oauth/device_authorization"
    assert found["token_endpoint"] == f"{base}/oauth/token"
    assert found["revocation_endpoint"] == f"{base}/oauth/revoke"
    assert found["grant_types_supported"] == [GRANT]


def test_a_program_gets_a_key_of_the_person_who_lets_it_in(
    program: Client, sign_in: SignIn, bob: User, team: Team
) -> None:
    codes = begin(program)
    assert re.fullmatch("[B-Z]{4}-[B-Z]{4}", codes["user_code"])
    assert (codes["expires_in"], codes["interval"]) == (600, 5)
    assert codes["verification_uri"].endswith("/device/")
    assert error(poll(program, codes["device_code"])) == "authorization_pending"
    person = sign_in(bob)
    assert (
        codes["user_code"] in person.get("/device/", {"code": codes["user_code"]}).content.decode()
    )
    typed = codes["user_code"].replace("-", " ").lower()
    question = person.post("/device/", {"code": typed}, REMOTE_ADDR="192.0.2.9").content.decode()
    for expected in (CLIENT, "198.51.100.7", "192.0.2.9", "Not the network", "Refuse", "12 hours"):
        assert expected in question, expected
    assert error(poll(program, codes["device_code"])) == "authorization_pending"
    assert let_in(person, typed).status_code == 200
    answer = poll(program, codes["device_code"])
    assert answer.json()["token_type"] == "Bearer"
    assert 0 < answer.json()["expires_in"] <= 12 * 3600
    key = ApiKey.objects.get()
    assert (key.owner, key.team) == (bob, team)
    assert key.name.startswith(f"{CLIENT} of bob ")
    assert answer.json()["access_token"].endswith(key.current_secret.last4)
    event = AuditEvent.objects.get(action=Action.KEY_CREATED)
    assert (event.actor_id, event.address) == (bob.pk, "198.51.100.7")
    listed = person.get(f"/teams/{team.slug}/keys/").content.decode()
    assert "It ends with the session in which it was let in." in listed
    assert error(poll(program, codes["device_code"])) == "invalid_grant"  # Once.


def test_program_key_does_not_outlive_its_hours_on_a_host_whose_clock_is_ahead(
    program: Client, sign_in: SignIn, bob: User
) -> None:
    latest = timezone.now() + timedelta(hours=13)
    with host(timedelta(hours=2)):
        codes = begin(program)
        assert let_in(sign_in(bob), codes["user_code"]).status_code == 200
        answer = poll(program, codes["device_code"]).json()
    assert 0 < answer["expires_in"] <= 12 * 3600
    assert ApiKey.objects.filter(expires_at__lt=latest).exists()


def test_no_code_is_in_the_database(program: Client) -> None:
    codes = begin(program)
    (row,) = ProgramSignIn.objects.values()
    text = str(row)
    assert codes["device_code"] not in text
    assert device_flow.normalize_user_code(codes["user_code"]) not in text


def test_a_program_that_polls_too_often_must_slow_down(program: Client) -> None:
    codes = begin(program)
    fields = {"grant_type": GRANT, "device_code": codes["device_code"], "client_id": CLIENT}
    assert ProgramSignIn.objects.get().interval == 5
    ProgramSignIn.objects.update(
        interval=50
    )  # A busy machine may pause for more than five seconds.
    assert error(program.post("/oauth/token", fields)) == "authorization_pending"
    assert error(program.post("/oauth/token", fields)) == "slow_down"
    assert ProgramSignIn.objects.get().interval == 55
    assert error(poll(program, codes["device_code"])) == "authorization_pending"


def test_a_refused_program_gets_no_key(program: Client, sign_in: SignIn, bob: User) -> None:
    codes, person = begin(program), sign_in(bob)
    assert (
        "gets no key" in person.post("/device/deny/", {"code": codes["user_code"]}).content.decode()
    )
    assert error(poll(program, codes["device_code"])) == "access_denied"
    assert let_in(person, codes["user_code"]).status_code == 422
    assert not ApiKey.objects.exists()


def test_codes_expire(program: Client, sign_in: SignIn, bob: User) -> None:
    codes = begin(program)
    ProgramSignIn.objects.update(created_at=timezone.now() - timedelta(minutes=11))
    assert let_in(sign_in(bob), codes["user_code"]).status_code == 422
    assert error(poll(program, codes["device_code"])) == "expired_token"
    ProgramSignIn.objects.update(created_at=timezone.now() - timedelta(hours=2))
    device_flow.delete_expired()
    assert error(poll(program, codes["device_code"])) == "invalid_grant"


@pytest.mark.parametrize(
    ("path", "fields", "code"),
    [
        ("token", {"grant_type": "password"}, "unsupported_grant_type"),
        ("token", {"grant_type": GRANT, "device_code": "made-up"}, "invalid_grant"),
        ("token", {"grant_type": GRANT, "device_code": "a\0b"}, "invalid_grant"),
        ("device_authorization", {}, "invalid_client"),
        ("device_authorization", {"client_id": "x" * 41}, "invalid_client"),
        ("device_authorization", {"client_id": "a\nb"}, "invalid_client"),
    ],
)
def test_wrong_requests(program: Client, path: str, fields: dict[str, str], code: str) -> None:
    assert error(program.post(f"/oauth/{path}", fields)) == code


def test_another_client_cannot_redeem_a_code(program: Client, sign_in: SignIn, bob: User) -> None:
    codes = begin(program)
    let_in(sign_in(bob), codes["user_code"])
    assert error(poll(program, codes["device_code"], "another")) == "invalid_grant"
    assert poll(program, codes["device_code"]).status_code == 200


def test_names_of_programs_are_text(program: Client, sign_in: SignIn, bob: User) -> None:
    codes = begin(program, "<script>x")
    page = sign_in(bob).post("/device/", {"code": codes["user_code"]}).content.decode()
    assert "&lt;script&gt;x" in page
    assert "<script>x" not in page


def test_codes_can_be_tried_only_a_few_times(program: Client, sign_in: SignIn, bob: User) -> None:
    """Attack: a person tries codes to give other people's programs a key of theirs."""
    codes, person = begin(program), sign_in(bob)
    for _ in range(10):
        assert "is wrong" in person.post("/device/", {"code": "BBBBBBBB"}).content.decode()
    refused = person.post("/device/", {"code": codes["user_code"]})
    assert (refused.status_code, "Too many" in refused.content.decode()) == (422, True)
    assert let_in(person, codes["user_code"]).status_code == 422


def test_sign_ins_from_one_network_are_limited(program: Client) -> None:
    """Attack: a stranger fills the table."""
    for _ in range(20):
        begin(program)
    answer = program.post("/oauth/device_authorization", {"client_id": CLIENT})
    assert answer.status_code == 429


def test_a_forged_form_lets_nobody_in(program: Client, bob: User) -> None:
    codes = begin(program)
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(bob)
    assert let_in(browser, codes["user_code"]).status_code == 403
    assert error(poll(program, codes["device_code"])) == "authorization_pending"


def test_a_viewer_and_an_outsider_cannot_give_a_key(
    program: Client, client: Client, vera: User, charlie: User
) -> None:
    codes = begin(program)
    for person in (vera, charlie):
        client.force_login(person)
        assert let_in(client, codes["user_code"]).status_code == 422
    assert error(poll(program, codes["device_code"])) == "authorization_pending"


@pytest.mark.parametrize(
    "policy", [Policy(min_creator_role=Role.ADMIN), Policy(max_keys_per_member=0)]
)
def test_the_policy_holds(
    program: Client, sign_in: SignIn, bob: User, team: Team, policy: Policy
) -> None:
    Team.objects.filter(pk=team.pk).update(policy=policy)
    assert let_in(sign_in(bob), begin(program)["user_code"]).status_code == 422


def test_the_second_factor_that_the_team_requires_is_needed(
    program: Client, sign_in: SignIn, bob: User, team: Team
) -> None:
    Team.objects.filter(pk=team.pk).update(policy=Policy(second_factor_days=0))
    codes = begin(program)
    answer = let_in(sign_in(bob), codes["user_code"])
    assert (answer.status_code, answer["Location"]) == (302, "/profile/sign-in/")
    assert error(poll(program, codes["device_code"])) == "authorization_pending"


@pytest.mark.parametrize("change", ["role", "member", "policy", "active", "limit"])
def test_rights_are_judged_again_when_the_key_is_made(
    program: Client, sign_in: SignIn, bob: User, team: Team, change: str
) -> None:
    codes = begin(program)
    let_in(sign_in(bob), codes["user_code"])
    membership = Membership.objects.filter(user=bob)
    if change == "role":
        membership.update(role=Role.VIEWER)
    elif change == "member":
        membership.delete()
    elif change == "policy":
        Team.objects.filter(pk=team.pk).update(policy=Policy(min_creator_role=Role.ADMIN))
    elif change == "active":
        User.objects.filter(pk=bob.pk).update(is_active=False)
    else:
        Team.objects.filter(pk=team.pk).update(max_keys=0)
    assert error(poll(program, codes["device_code"])) in {"access_denied", "invalid_grant"}
    assert not ApiKey.objects.exists()


def test_the_key_ends_when_the_person_signs_out(
    program: Client, sign_in: SignIn, bob: User
) -> None:
    person = sign_in(bob)
    key, _ = signed_in(program, person)
    person.post("/accounts/logout/")
    assert not ApiKey.objects.exists()
    assert Tombstone.objects.get().public_id == key.public_id
    assert AuditEvent.objects.get(action=Action.KEY_DELETED).actor_id == bob.pk


def test_the_key_ends_with_the_session_however_that_ends(
    program: Client, sign_in: SignIn, bob: User, issue: Callable[..., Any]
) -> None:
    other, _ = issue(bob, "other")
    signed_in(program, sign_in(bob))
    Session.objects.all().delete()
    assert [*ApiKey.objects.all()] == [other]


def test_a_session_that_ended_before_the_program_asked_gives_no_key(
    program: Client, sign_in: SignIn, bob: User
) -> None:
    codes, person = begin(program), sign_in(bob)
    let_in(person, codes["user_code"])
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    assert error(poll(program, codes["device_code"])) == "access_denied"
    assert not ApiKey.objects.exists()


def test_the_key_lasts_no_longer_than_the_session(
    program: Client, sign_in: SignIn, bob: User
) -> None:
    codes, person = begin(program), sign_in(bob)
    let_in(person, codes["user_code"])
    Session.objects.update(expire_date=timezone.now() + timedelta(minutes=20))
    assert poll(program, codes["device_code"]).json()["expires_in"] <= 1200


def test_expired_keys_are_deleted_without_mail(program: Client, sign_in: SignIn, bob: User) -> None:
    key, _ = signed_in(program, sign_in(bob))
    device_flow.delete_expired()
    ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert send_reminders() == 0
    device_flow.delete_expired()
    assert not ApiKey.objects.exists()
    assert not ProgramSignIn.objects.exists()


def test_the_person_cannot_make_it_last_longer(
    program: Client, sign_in: SignIn, bob: User, alice: User
) -> None:
    key, _ = signed_in(program, sign_in(bob))
    with pytest.raises(EndsWithSession):
        changes.change_key(key, {"expires_at": None}, actor=bob)
    with pytest.raises(EndsWithSession):
        changes.hand_over(key, alice, actor=alice)
    changes.change_key(key, {"name": "renamed"}, actor=bob)


def test_a_program_ends_its_own_key(
    program: Client, sign_in: SignIn, bob: User, issue: Callable[..., Any]
) -> None:
    """Another key is not ended this way: the report of leaks would say so to its team."""
    other, other_text = issue(bob, "other")
    _, text = signed_in(program, sign_in(bob))
    for token in ("made-up", other_text, text, text):
        answer = program.post("/oauth/revoke", {"token": token})
        assert (answer.status_code, answer.json()) == (200, {})
    assert [*ApiKey.objects.all()] == [other]

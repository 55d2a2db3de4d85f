"""The page behind the link: make an account or sign in, and join, once."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.core import signing
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import AuditEvent
from keyportal.keys import keystring
from keyportal.people import links
from keyportal.people.invitations import OtherAccount, accept, revoke
from keyportal.people.models import Invitation
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.openid.configuration import IdentityProvider
from tests.conftest import PASSWORD
from tests.people.conftest import path_of
from tests.support.cases import own_case
from tests.support.concurrency import run_concurrently

PAIR = {"password1": PASSWORD, "password2": PASSWORD}
ACCOUNT = {"username": "carol", **PAIR}


@pytest.fixture
def carol(db: None) -> User:
    """Has an account, and no team."""
    return User.objects.create_user("caroline", "carol@example.com", PASSWORD)


def members(team: Team) -> dict[str, str]:
    rows = Membership.objects.for_team(team).values_list("user__username", "role")
    return dict(rows.exclude(user__username="alice"))


@pytest.mark.any_database
def test_new_account_joins_and_is_signed_in(
    client: Client, team: Team, invitation: Invitation
) -> None:
    path = path_of(invitation)
    page = client.get(path)
    assert page.status_code == 200
    text = page.content.decode()
    for shown in ("alice", "carol@example.com", "Acme", "Member", 'name="username"'):
        assert shown in text
    assert "no-store" in page["Cache-Control"]
    answer: Any = client.post(path, ACCOUNT)
    assert (answer.status_code, answer.url) == (302, f"/teams/{team.slug}/keys/")
    assert members(team) == {"carol": "member"}
    assert client.get(answer.url).status_code == 200
    user = User.objects.get(username="carol")
    assert (user.email, user.must_change_password) == ("carol@example.com", False)
    assert not Invitation.objects.exists()


@pytest.mark.any_database
@pytest.mark.parametrize("is_mailed", [True, False])
@pytest.mark.parametrize("has_account", [True, False])
def test_only_a_link_that_was_mailed_proves_the_address(
    client: Client, invitation: Invitation, request: Any, is_mailed: bool, has_account: bool
) -> None:
    """Attack: an admin copies the link, and makes an account with somebody else's address."""
    if has_account:
        client.force_login(request.getfixturevalue("carol"))
    client.post(path_of(invitation, is_mailed=is_mailed), {} if has_account else ACCOUNT)
    assert Membership.objects.filter(user__email="carol@example.com").exists()
    address = EmailAddress.objects.filter(email="carol@example.com", primary=True)
    assert address.filter(verified=True).exists() == is_mailed


@pytest.mark.any_database
def test_wrong_form_makes_no_account(client: Client, team: Team, invitation: Invitation) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({"username": "alice"}, "A user with that username already exists"),
        ({"username": "ALICE"}, "A user with that username already exists"),
        ({"username": ""}, "This field is required"),
        ({"username": "bob@example.com"}, "Choose a name without @."),
        ({"username": keystring.generate().text}, "contains an API key"),
        ({"password2": "another one"}, "You must type the same password each time"),
        ({"password1": "carol1", "password2": "carol1"}, "This password"),
    ]
    for data, error in cases:
        with own_case(data, error):
            answer = client.post(path_of(invitation), ACCOUNT | data)
            assert answer.status_code == 422
            assert error in answer.content.decode()
            assert User.objects.count() == 1
            assert Invitation.objects.exists()


@pytest.mark.any_database
def test_address_of_the_invitation_cannot_be_changed(
    client: Client, invitation: Invitation
) -> None:
    client.post(path_of(invitation), ACCOUNT | {"email": "eve@example.com"})
    assert User.objects.get(username="carol").email == "carol@example.com"


@pytest.mark.any_database
def test_address_with_an_account_gets_no_second_one(
    client: Client, team: Team, carol: User, invitation: Invitation
) -> None:
    shown = client.get(path_of(invitation)).content.decode()
    assert "caroline" not in shown
    answer = client.post(path_of(invitation), ACCOUNT)
    assert answer.status_code == 422
    assert "Sign in instead" in answer.content.decode()
    assert members(team) == {}


@pytest.mark.any_database
def test_link_survives_a_sign_in(
    client: Client, team: Team, carol: User, invitation: Invitation
) -> None:
    cache.clear()
    path = path_of(invitation)
    next_path = re.findall(r'name="next" value="([^"]+)"', client.get(path).content.decode())[0]
    assert next_path == path
    form = {"login": "carol@example.com", "password": PASSWORD, "next": next_path}
    answer: Any = client.post("/accounts/login/", form)
    assert (answer.status_code, answer.url) == (302, path)
    assert "Join as caroline" in client.get(path).content.decode()
    answer = client.post(path)
    assert (answer.status_code, answer.url) == (302, f"/teams/{team.slug}/keys/")
    assert members(team) == {"caroline": "member"}
    assert not Invitation.objects.exists()


@pytest.mark.any_database
def test_account_of_another_address_is_told_so_and_can_sign_out(
    client: Client, team: Team, charlie: User, invitation: Invitation
) -> None:
    client.force_login(charlie)
    path = path_of(invitation)
    page = client.get(path).content.decode()
    assert "You are signed in as" in page
    assert "whose address is another one" in page
    assert client.post(path, ACCOUNT).status_code == 403
    assert members(team) == {}
    answer: Any = client.post("/accounts/logout/", {"next": path})
    assert answer.url == path
    assert 'name="password1"' in client.get(path).content.decode()


@pytest.mark.any_database
def test_user_with_another_address_does_not_join(
    team: Team, carol: User, invitation: Invitation
) -> None:
    """Attack: the address is changed after the page was opened."""
    for email in ("", "charlie@example.com", "carol@example.com.evil.org"):
        with own_case(email):
            User.objects.filter(pk=carol.pk).update(email=email)
            with pytest.raises(OtherAccount):
                accept(links.read(path_of(invitation).split("/")[2]), carol, address=None)
            assert members(team) == {}


@pytest.mark.any_database
def test_user_who_is_deactivated_meanwhile_does_not_join(
    team: Team, carol: User, invitation: Invitation
) -> None:
    User.objects.filter(pk=carol.pk).update(is_active=False)
    with pytest.raises(OtherAccount):
        accept(links.read(path_of(invitation).split("/")[2]), carol, address=None)
    assert members(team) == {}


@pytest.mark.any_database
def test_member_who_accepts_keeps_the_role(
    client: Client, team: Team, alice: User, bob: User
) -> None:
    invitation = Invitation.objects.create(
        team=team, email="bob@example.com", role=Role.ADMIN, invited_by=alice
    )
    client.force_login(bob)
    assert client.post(path_of(invitation)).status_code == 302
    assert members(team) == {"bob": "member"}
    assert not Invitation.objects.exists()


DEATHS: dict[str, Callable[[Invitation], object]] = {
    "used or revoked": lambda row: row.delete(),
    "revoked and sent to the same address anew": lambda row: (
        row.delete(),
        Invitation.objects.create(pk=row.pk, team=row.team, email=row.email, role=row.role),
    ),
    "team inactive": lambda _: Team.objects.update(is_active=False),
    "inviter removed": lambda row: Membership.objects.filter(user=row.invited_by_id).delete(),
    "inviter demoted": lambda _: Membership.objects.update(role=Role.MEMBER),
    "inviter deactivated": lambda _: User.objects.update(is_active=False),
}


@pytest.mark.any_database
@pytest.mark.parametrize("death", DEATHS)
def test_ended_link_says_what_to_do_and_nothing_else(
    client: Client, team: Team, invitation: Invitation, death: str
) -> None:
    path = path_of(invitation)
    DEATHS[death](invitation)
    for answer in (client.get(path), client.post(path, ACCOUNT)):
        assert answer.status_code == 410
        page = answer.content.decode()
        assert "This invitation is used or revoked" in page
        for hidden in ("Acme", "alice", "carol"):
            assert hidden not in page
    assert not User.objects.filter(username="carol").exists()


@pytest.mark.any_database
def test_expired_link_can_be_sent_again(client: Client, team: Team, invitation: Invitation) -> None:
    path = path_of(invitation)
    Invitation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    answer = client.post(path, ACCOUNT)
    assert answer.status_code == 410
    assert "Ask whoever invited you to send it again." in answer.content.decode()
    assert "Acme" not in answer.content.decode()
    Invitation.objects.update(expires_at=timezone.now() + timedelta(days=1))
    assert client.post(path, ACCOUNT).status_code == 302


@pytest.mark.any_database
def test_forged_link_opens_nothing(client: Client, invitation: Invitation) -> None:
    real = path_of(invitation).split("/")[2]
    content = [invitation.pk, invitation.nonce, True]
    tokens = [
        "x",
        real[:-1],
        real[:-1] + ("A" if real[-1] != "A" else "B"),
        real.replace(":", "", 1),
        signing.dumps(content),
        signing.dumps(content, key="x" * 50, salt="keyportal.people.invitation"),
    ]
    for token in tokens:
        answer = client.post(f"/invitations/{token}/", ACCOUNT)
        assert answer.status_code == 404, token
        assert "This link is not complete" in answer.content.decode()
    assert not User.objects.filter(username="carol").exists()


@pytest.mark.any_database
def test_joining_is_in_the_audit_with_its_person(
    client: Client, team: Team, invitation: Invitation
) -> None:
    client.post(path_of(invitation), ACCOUNT)
    events = AuditEvent.objects.for_team(team).order_by("pk")
    assert [(event.action, event.target, event.actor, event.address) for event in events] == [
        ("invitation:accepted", "carol@example.com as member", "carol", "127.0.0.1"),
        ("member:changed", "Member carol: created, Role: none → member", "carol", "127.0.0.1"),
        ("user:signed-in", "carol", "carol", "127.0.0.1"),
    ]


@pytest.mark.any_database
def test_there_is_no_other_sign_up(client: Client, db: None) -> None:
    assert client.get("/accounts/signup/").status_code == 404


@pytest.mark.django_db(transaction=True)
def test_invitation_is_used_once_by_two_at_the_same_time(
    team: Team, invitation: Invitation, carol: User
) -> None:
    link = links.read(path_of(invitation).split("/")[2])
    results = run_concurrently(*[lambda: accept(link, carol, address=None)] * 2)
    assert sum(isinstance(result, links.EndedInvitation) for result in results) == 1
    assert members(team) == {"caroline": "member"}


@pytest.mark.django_db(transaction=True)
def test_two_accounts_at_the_same_time_are_one(team: Team, invitation: Invitation) -> None:
    path = path_of(invitation)

    def join(name: str) -> int:
        return Client().post(path, ACCOUNT | {"username": name}).status_code

    results = run_concurrently(lambda: join("carol"), lambda: join("karol"))
    assert results.count(302) == 1
    assert {*results} <= {302, 410, 422}
    assert len(members(team)) == 1
    assert User.objects.filter(email="carol@example.com").count() == 1


@pytest.mark.django_db(transaction=True)
def test_accepted_and_revoked_at_once_is_one_of_both(
    team: Team, alice: User, invitation: Invitation, carol: User
) -> None:
    link = links.read(path_of(invitation).split("/")[2])

    def end() -> object:
        try:
            revoke(invitation, actor=alice, address=None)
        except Invitation.DoesNotExist as error:
            return error
        return None

    joined, ended = run_concurrently(lambda: accept(link, carol, address=None), end)
    assert isinstance(joined, Membership) == isinstance(ended, Invitation.DoesNotExist)
    assert len(members(team)) == isinstance(joined, Membership)


@pytest.mark.any_database
def test_accounts_of_the_company_alone(
    client: Client, invitation: Invitation, settings: Any
) -> None:
    """With a provider, its button leads back here; without passwords, nobody makes one."""
    settings.OIDC_PROVIDERS = (
        IdentityProvider(
            id="okta", name="Okta", issuer="https://okta.example", client_id="x", client_secret="y"
        ),
    )
    path = path_of(invitation)
    page = client.get(path).content.decode()
    assert "Sign in with Okta" in page
    assert page.count(f'name="next" value="{path}"') == 2
    settings.PASSWORD_SIGN_IN = False
    page = client.get(path).content.decode()
    assert page.count(f'name="next" value="{path}"') == 1
    assert 'name="password1"' not in page
    client.post(path, ACCOUNT)
    assert not User.objects.filter(username="carol").exists()

"""A service account never signs in, whatever way is tried."""

from collections.abc import Callable
from itertools import product

import pytest
from allauth.account.internal.flows.login import perform_login
from allauth.account.models import EmailAddress, Login
from django.contrib.auth import authenticate
from django.contrib.auth.hashers import make_password
from django.contrib.auth.tokens import default_token_generator
from django.core import mail
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.test import Client, RequestFactory

from keyportal.audit.models import Action, AuditEvent
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.service_accounts import changes
from tests.conftest import PASSWORD
from tests.support.cases import own_case

SignIn = Callable[[User], Client]
NAME = "ci@u-8105f7322477"


@pytest.fixture
def account(team: Team) -> User:
    return changes.create(team, "ci", "ci@example.com", actor=None)


def assert_signed_out(client: Client) -> None:
    response = client.get("/teams/u-8105f7322477/keys/")
    assert response.status_code == 302
    assert response["Location"].startswith("/accounts/login/")


@pytest.mark.any_database
def test_no_password(client: Client, account: User) -> None:
    passwords, logins = ("", "!", PASSWORD), (NAME, NAME.upper(), "ci@example.com")
    for password, login in product(passwords, logins):
        with own_case(password, login):
            client.post("/accounts/login/", {"login": login, "password": password})
            assert authenticate(None, username=login, password=password) is None
            assert_signed_out(client)


@pytest.mark.any_database
@pytest.mark.parametrize("email", [NAME, "ci@example.com"])
def test_no_reset_of_the_password(client: Client, account: User, email: str) -> None:
    """The contact gets mails about keys, and none with a link to reset a password."""
    response = client.post("/accounts/password/reset/", {"email": email}, REMOTE_ADDR="127.0.0.1")
    assert response.status_code in {200, 302}
    assert not mail.outbox


@pytest.mark.any_database
def test_no_forged_reset_link_sets_a_password(client: Client, account: User) -> None:
    token = default_token_generator.make_token(account)
    address = f"/accounts/password/reset/key/{account.pk:x}-{token}/"
    client.post(address, {"password1": PASSWORD, "password2": PASSWORD})
    account.refresh_from_db()
    assert not account.has_usable_password()


@pytest.mark.any_database
def test_no_session(client: Client, account: User) -> None:
    """Whatever code begins one: a provider, a passkey, an invitation."""
    client.force_login(account)
    assert_signed_out(client)
    assert client.get("/admin/").status_code == 302


@pytest.mark.any_database
def test_no_sign_in_without_a_password(account: User) -> None:
    """The common end of all of allauth's ways: providers, passkeys, sign-up."""
    request = RequestFactory().get("/")
    request.session = Client().session
    response = perform_login(request, Login(user=account))
    assert response["Location"] == "/accounts/inactive/"
    assert "_auth_user_id" not in request.session
    assert not AuditEvent.objects.filter(action=Action.SIGNED_IN).exists()


@pytest.mark.any_database
def test_sessions_of_people_still_open_pages(sign_in: SignIn, bob: User) -> None:
    assert sign_in(bob).get("/teams/u-8105f7322477/keys/").status_code == 200


def test_the_database_refuses_what_would_let_it_sign_in(account: User) -> None:
    cases: list[dict[str, object]] = [
        {"password": make_password(PASSWORD)},
        {"email": "ci@example.com"},
        {"is_staff": True},
        {"is_superuser": True},
    ]
    for values in cases:
        with own_case(values), pytest.raises(IntegrityError), transaction.atomic():
            User.objects.filter(pk=account.pk).update(**values)


def test_the_database_refuses_to_make_a_person_of_it(account: User, alice: User) -> None:
    """And a contact of a person, who has an address."""
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=account.pk).update(service_team=None)
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=alice.pk).update(contact="a@example.com")


@pytest.mark.any_database
def test_operators_can_not_set_its_password(client: Client, account: User) -> None:
    client.force_login(User.objects.create_superuser("root", "root@example.com", PASSWORD))
    page = f"/admin/teams/user/{account.pk}/password/"
    data = {"password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}
    assert client.post(page, data).status_code == 403
    with pytest.raises(PermissionDenied):
        account.set_password(PASSWORD)
    account.refresh_from_db()
    assert not account.has_usable_password()


@pytest.mark.any_database
def test_operators_can_not_give_it_an_address_or_flags(client: Client, account: User) -> None:
    client.force_login(User.objects.create_superuser("root", "root@example.com", PASSWORD))
    fields = {
        "username": NAME,
        "email": "ci@example.com",
        "is_active": "on",
        "is_superuser": "on",
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00:00",
        "memberships-TOTAL_FORMS": "0",
        "memberships-INITIAL_FORMS": "0",
    }
    response = client.post(f"/admin/teams/user/{account.pk}/change/", fields)
    assert response.status_code == 200
    assert "A service account has no password" in response.content.decode()
    account.refresh_from_db()
    assert (account.email, account.is_superuser) == ("", False)


@pytest.mark.any_database
def test_address_of_allauth_alone_opens_nothing(client: Client, account: User) -> None:
    """Attack: a row that a provider or a mistake left."""
    EmailAddress.objects.create(user=account, email="ci@example.com", verified=True, primary=True)
    client.post("/accounts/password/reset/", {"email": "ci@example.com"}, REMOTE_ADDR="127.0.0.1")
    client.force_login(account)
    assert_signed_out(client)


@pytest.mark.any_database
def test_its_role_does_not_change(account: User) -> None:
    cases: list[Role] = [Role.VIEWER, Role.ADMIN, Role.OWNER]
    for role in cases:
        with own_case(role):
            membership = Membership.objects.get(user=account)
            membership.role = role
            with pytest.raises(ValidationError, match="has the role Member"):
                membership.save(update_fields=["role"])


@pytest.mark.any_database
def test_it_joins_no_other_team(account: User, other_team: Team) -> None:
    with pytest.raises(ValidationError, match="in its own team"):
        Membership.objects.create(team=other_team, user=account)
    with pytest.raises(CommandError, match="in its own team"):
        call_command("addmember", other_team.slug, NAME)

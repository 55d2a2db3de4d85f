"""Pages that ask again who somebody is, when they sign in at an identity provider."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from allauth.socialaccount.models import SocialAccount
from django.test import Client

from keyportal.people.models import Invitation
from keyportal.teams.models import Role, Team, User
from tests.support.identity_provider import ForgingProvider
from tests.teams.openid.conftest import Begin, is_signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
SignIn = Callable[..., Any]
KEYS = "/teams/u-8105f7322477/management-keys/"


@pytest.fixture
def alice_there(alice: User) -> User:
    """Without a password, so that only the provider can say who she is."""
    SocialAccount.objects.create(user=alice, provider="corp", uid="sub-1")
    alice.set_unusable_password()
    alice.save(update_fields=["password"])
    return alice


def asks_again(client: Client) -> bool:
    answer = client.get(f"{KEYS}create/")
    assert answer.status_code in {200, 302}
    return answer.status_code == 302


def test_sign_in_counts_from_when_the_provider_asked(
    client: Client, alice_there: User, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    """Attack: at an open browser, the provider signs in without a question."""
    for auth_time, expected in (
        (int(time.time()) - 3600, True),
        (int(time.time()), False),
        (int(time.time()) + 10**6, False),
        ("soon", False),
        (None, False),
    ):
        forger.claims["auth_time"] = auth_time
        sign_in_there()
        assert asks_again(client) == expected, auth_time


def test_provider_is_told_to_ask(
    client: Client, alice_there: User, forger: ForgingProvider, begin: Begin, come_back: SignIn
) -> None:
    forger.claims["auth_time"] = int(time.time()) - 3600
    come_back(begin())
    assert "prompt" not in forger.query
    page = client.get(f"{KEYS}create/", follow=True).content.decode()
    assert "Sign in again with Corp SSO" in page
    assert f'name="next" value="{KEYS}create/"' in page
    answer = begin(again="on", next=f"{KEYS}create/")
    assert (forger.query["prompt"], forger.query["max_age"]) == ("login", "900")
    # Attack: `prompt` is removed from the address on the way, and nobody is asked.
    assert come_back(answer).url == f"{KEYS}create/"
    assert asks_again(client)
    forger.claims["auth_time"] = int(time.time())
    come_back(begin(again="on"))
    assert not asks_again(client)


def test_invited_person_gets_an_account(
    client: Client,
    team: Team,
    alice: User,
    forger: ForgingProvider,
    configure: Callable[..., Any],
    sign_in_there: SignIn,
) -> None:
    configure(create_accounts=False)
    fields = {"team": team, "role": Role.MEMBER, "invited_by": alice}
    invitation = Invitation.objects.create(email="dora@example.com", **fields)
    forger.claims["email_verified"] = False
    sign_in_there()
    assert not is_signed_in(client)
    forger.claims["email_verified"] = True
    User.objects.filter(pk=alice.pk).update(is_active=False)  # Nobody stands behind it.
    sign_in_there()
    assert not is_signed_in(client)
    User.objects.filter(pk=alice.pk).update(is_active=True)
    sign_in_there()
    assert is_signed_in(client)
    assert Invitation.objects.get() == invitation  # They join on its page.
    assert not User.objects.get(email="dora@example.com").memberships.exists()

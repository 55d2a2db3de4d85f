"""Sign-in at a provider that operators added, changed or ended, maybe while somebody is at it."""

from collections.abc import Callable
from typing import Any

import pytest
from allauth.socialaccount.models import SocialAccount
from django.test import Client
from pytest_django import Settings

from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.openid.stored import StoredProvider
from tests.support.cases import own_case
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, ForgingProvider
from tests.teams.openid.conftest import Begin, is_signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
ComeBack = Callable[[dict[str, str]], Any]


@pytest.fixture
def corp(forger: ForgingProvider, settings: Settings) -> StoredProvider:
    settings.OIDC_PROVIDERS = ()
    row = StoredProvider(provider_id="corp", name="Corp SSO", issuer=forger.issuer)
    row.client_id, row.client_secret = CLIENT_ID, CLIENT_SECRET
    row.domains, row.create_accounts = "example.com", True
    row.save()
    return row


def test_person_signs_in(
    corp: StoredProvider, forger: ForgingProvider, client: Client, begin: Begin, come_back: ComeBack
) -> None:
    come_back(begin())
    assert is_signed_in(client)
    assert User.objects.get().email == "dora@example.com"


def test_groups_give_roles(
    corp: StoredProvider, forger: ForgingProvider, team: Team, begin: Begin, come_back: ComeBack
) -> None:
    StoredProvider.objects.update(groups={"leads": {team.slug: "admin"}})
    forger.claims = {"groups": ["leads"]}
    come_back(begin())
    membership = Membership.objects.get(user__email="dora@example.com")
    assert (membership.role, membership.granted_by) == (Role.ADMIN, "corp")


def test_provider_ends_while_somebody_is_there(
    corp: StoredProvider, client: Client, begin: Begin, come_back: ComeBack
) -> None:
    cases: list[dict[str, Any] | None] = [
        None,
        {"is_active": False},
        {"issuer": "https://x.example"},
    ]
    for change in cases:
        with own_case(change):
            answer = begin()
            if change is None:
                StoredProvider.objects.all().delete()
            else:
                StoredProvider.objects.update(**change)
            assert come_back(answer).url == "/accounts/login/"
            assert not is_signed_in(client)
            page = client.get("/accounts/login/").content.decode()
            said = (
                "not offered any more"
                if change is None or "issuer" not in change
                else "did not succeed"
            )
            assert said in page
            assert not User.objects.exists()


@pytest.mark.parametrize("change", [None, {"is_active": False}, {"issuer": "https://x.example"}])
def test_provider_ends_after_its_token_was_checked(
    corp: StoredProvider,
    client: Client,
    forger: ForgingProvider,
    begin: Begin,
    come_back: ComeBack,
    change: dict[str, Any] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Attack: somebody is connected to a provider that is gone, or to another issuer's."""
    from keyportal.teams.openid import id_token, provider

    def verify_and_end(*arguments: Any) -> Any:
        claims = id_token.verify(*arguments)
        if change is None:
            StoredProvider.objects.all().delete()
        else:
            StoredProvider.objects.update(**change)
        return claims

    class Replaced:
        verify = staticmethod(verify_and_end)

    answer = begin()
    monkeypatch.setattr(provider, "id_token", Replaced)
    assert come_back(answer).url == "/accounts/login/"
    assert "not offered any more" in client.get("/accounts/login/").content.decode()
    assert not is_signed_in(client)
    assert not SocialAccount.objects.exists()
    assert not User.objects.exists()


def test_people_of_another_issuer_are_not_those_of_the_environment(
    forger: ForgingProvider,
    settings: Settings,
    client: Client,
    begin: Begin,
    come_back: ComeBack,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Attack: the new provider has the ID of the former one, and other people with its `sub`."""
    come_back(begin())
    account = SocialAccount.objects.get()
    assert account.extra_data == {"iss": forger.issuer}
    settings.OIDC_PROVIDERS = ()
    row = StoredProvider(provider_id="corp", name="New SSO", issuer=forger.issuer)
    row.client_id, row.client_secret = CLIENT_ID, CLIENT_SECRET
    row.save()
    client.logout()
    come_back(begin())
    assert is_signed_in(client)  # It was only moved here.
    client.logout()
    SocialAccount.objects.update(extra_data={"iss": "https://former.example.com"})
    come_back(begin())
    assert not is_signed_in(client)
    assert "The person was connected at another issuer" in caplog.text

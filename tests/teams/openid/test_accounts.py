"""Which account somebody from an identity provider signs in to."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.core import mail
from django.test import Client
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.teams.models import User
from tests.conftest import PASSWORD
from tests.support.cases import own_case
from tests.support.identity_provider import ForgingProvider
from tests.teams.openid.conftest import Begin, is_signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
Configure = Callable[..., Any]
SignIn = Callable[..., Any]


def connect(user: User, uid: str = "sub-1", provider: str = "corp") -> SocialAccount:
    return SocialAccount.objects.create(user=user, provider=provider, uid=uid)


def signed_in_user(client: Client) -> str:
    return User.objects.get(pk=client.session["_auth_user_id"]).username


def assert_refused(client: Client, answer: Any) -> None:
    assert (answer.status_code, answer.url) == (302, "/accounts/login/")
    page = client.get(answer.url).content.decode()
    assert "Your Corp SSO account may not sign in here." in page
    assert not is_signed_in(client)


def test_button_leads_to_the_provider(client: Client, forger: ForgingProvider) -> None:
    page = client.get("/accounts/login/?next=/teams/").content.decode()
    assert "Sign in with Corp SSO" in page
    assert page.count('name="next" value="/teams/"') == 3  # Password, passkey, provider.
    assert client.get("/accounts/oidc/corp/login/").status_code == 405
    for answer in (
        client.post("/accounts/oidc/other/login/", follow=True),
        client.get("/accounts/oidc/other/login/callback/", follow=True),
    ):
        assert "not offered any more" in answer.content.decode()


def test_button_needs_a_token(forger: ForgingProvider) -> None:
    """Attack: another site signs its visitor in, with the company's account."""
    assert Client(enforce_csrf_checks=True).post("/accounts/oidc/corp/login/").status_code == 403


def test_request_cannot_be_changed_by_its_sender(
    client: Client, forger: ForgingProvider, begin: Begin
) -> None:
    page = client.post(
        "/accounts/oidc/corp/login/?process=connect&scope=admin"
        "&auth_params=redirect_uri%3Dhttps%3A%2F%2Fevil.example%26nonce%3D1"
    ).content.decode()
    forger.authorize(page.partition("url=")[2].partition('"')[0].replace("&amp;", "&"))
    assert forger.query["redirect_uri"] == "http://testserver/accounts/oidc/corp/login/callback/"
    assert set(forger.query["scope"].split()) == {"openid", "email", "profile"}
    assert len(forger.query["nonce"]) == 64
    assert forger.query["code_challenge_method"] == "S256"


def test_callback_address_is_that_of_the_settings(
    client: Client, forger: ForgingProvider, begin: Begin, settings: Settings
) -> None:
    """Attack: the code is sent to the address in a forged Host header."""
    settings.PUBLIC_URL = "https://keys.example.com"
    begin()
    assert forger.query["redirect_uri"].startswith("https://keys.example.com/accounts/oidc/")


def test_next_never_leads_off_site(sign_in_there: SignIn) -> None:
    for target in ("https://evil.example/", "//evil.example", "/\\evil.example"):
        with own_case(target):
            assert sign_in_there(next=target).url == "/"


def test_next_is_followed(sign_in_there: SignIn) -> None:
    assert sign_in_there(next="/teams/u-8105f7322477/keys/").url == "/teams/u-8105f7322477/keys/"


def test_account_is_made_at_the_first_sign_in_and_found_at_the_next(
    client: Client, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    forger.claims = {
        "preferred_username": "dora@corp",
        "given_name": "Dora",
        "family_name": "D" * 200,
        "email": "Dora@Example.COM",
    }
    sign_in_there()
    user = User.objects.get()
    assert (user.username, user.email, user.first_name) == ("dora", "dora@example.com", "Dora")
    assert not user.has_usable_password()
    assert not user.must_change_password
    assert (user.is_staff, user.is_superuser, user.memberships.count()) == (False, False, 0)
    client.post("/accounts/logout/")
    forger.claims["preferred_username"] = "another"
    sign_in_there()
    assert signed_in_user(client) == "dora"
    assert User.objects.count() == 1
    targets = {event.target for event in AuditEvent.objects.filter(action=Action.USER_CHANGED)}
    assert any(target.startswith("Connected account of dora: created") for target in targets)


def test_names_that_are_taken_get_a_number(
    client: Client, forger: ForgingProvider, bob: User, sign_in_there: SignIn
) -> None:
    forger.claims = {"preferred_username": "BOB", "email": "robert@example.com"}
    sign_in_there()
    assert signed_in_user(client).lower().startswith("bob")
    assert signed_in_user(client).lower() != "bob"


def test_no_account_is_made_where_that_is_not_allowed(
    client: Client, configure: Configure, sign_in_there: SignIn, caplog: pytest.LogCaptureFixture
) -> None:
    configure(create_accounts=False)
    assert_refused(client, sign_in_there())
    assert "from 127.0.0.1 was refused: no account has this address" in caplog.text
    assert not User.objects.exists()


def test_only_verified_addresses_of_its_domains_sign_in(
    client: Client, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    cases: list[dict[str, Any]] = [
        {"email": "dora@other.example"},
        {"email": "dora@sub.example.com"},
        {"email": "dora@example.com@other.example"},
        {"email": "dora@other.example, dora@example.com"},
        {"email": "example.com"},
        {"email": ["dora@example.com"]},
        {"email": "dora\n@example.com"},
        {"email": f"{'d' * 250}@example.com"},
        {"email": None},
        {"email_verified": False},
        {"email_verified": None},
        {"email_verified": "true"},
        {"email_verified": 1},
    ]
    for claims in cases:
        with own_case(claims):
            forger.claims = claims
            assert_refused(client, sign_in_there())
            assert not User.objects.exists()


def test_provider_may_be_known_to_verify_all_addresses(
    client: Client, forger: ForgingProvider, configure: Configure, sign_in_there: SignIn
) -> None:
    """Microsoft Entra says nothing about it. What a provider denies stays denied."""
    configure(addresses_verified=True)
    forger.claims = {"email_verified": False}
    assert_refused(client, sign_in_there())
    forger.claims = {"email_verified": None}
    sign_in_there()
    assert is_signed_in(client)


def test_existing_account_is_connected_by_an_address_of_a_trusted_provider(
    client: Client, bob: User, forger: ForgingProvider, configure: Configure, sign_in_there: SignIn
) -> None:
    configure(trust_addresses=True, create_accounts=False)
    forger.claims = {"email": "BOB@example.com"}
    sign_in_there()
    assert signed_in_user(client) == "bob"
    bob.refresh_from_db()
    assert bob.check_password(PASSWORD)


def test_existing_account_is_not_connected_otherwise(
    client: Client, bob: User, forger: ForgingProvider, configure: Configure, sign_in_there: SignIn
) -> None:
    forger.claims = {"email": "bob@example.com"}
    assert_refused(client, sign_in_there())  # Not trusted.
    configure(trust_addresses=True)
    forger.claims["email_verified"] = False
    assert_refused(client, sign_in_there())  # Not verified.
    assert not SocialAccount.objects.exists()


def test_reused_address_does_not_open_the_account_of_its_former_owner(
    client: Client, bob: User, forger: ForgingProvider, configure: Configure, sign_in_there: SignIn
) -> None:
    configure(trust_addresses=True)
    connect(bob, "sub-of-bob")
    forger.claims = {"email": "bob@example.com"}
    assert_refused(client, sign_in_there())


def test_initial_password_ends_when_the_account_is_connected(
    client: Client, bob: User, forger: ForgingProvider, configure: Configure, sign_in_there: SignIn
) -> None:
    """Attack: whoever saw it signs in with it later. And its user may never have got it."""
    User.objects.filter(pk=bob.pk).update(must_change_password=True)
    configure(trust_addresses=True)
    forger.claims = {"email": "bob@example.com"}
    sign_in_there()
    bob.refresh_from_db()
    assert (bob.has_usable_password(), bob.must_change_password) == (False, False)
    assert client.get("/").status_code == 302


def test_account_whose_address_was_never_proved_belongs_to_who_proves_it(
    client: Client, bob: User, forger: ForgingProvider, configure: Configure, sign_in_there: SignIn
) -> None:
    """Attack: an admin invites bob's address, and makes an account with the link that is shown."""
    EmailAddress.objects.create(user=bob, email=bob.email, primary=True, verified=False)
    Authenticator.objects.create(user=bob, type=Authenticator.Type.WEBAUTHN, data={})
    forgers = Client()
    forgers.force_login(bob)
    configure(trust_addresses=True)
    forger.claims = {"email": "bob@example.com"}
    sign_in_there()
    bob.refresh_from_db()
    assert not bob.has_usable_password()
    assert not Authenticator.objects.exists()
    assert not is_signed_in(forgers)
    assert is_signed_in(client)
    assert EmailAddress.objects.get().verified


def test_account_whose_address_was_proved_keeps_its_password(
    client: Client, bob: User, forger: ForgingProvider, configure: Configure, sign_in_there: SignIn
) -> None:
    EmailAddress.objects.create(user=bob, email=bob.email, primary=True, verified=True)
    configure(trust_addresses=True)
    forger.claims = {"email": "bob@example.com"}
    sign_in_there()
    bob.refresh_from_db()
    assert bob.has_usable_password()


def test_password_that_must_be_changed_still_must_after_a_later_sign_in(
    client: Client, bob: User, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    connect(bob)
    User.objects.filter(pk=bob.pk).update(must_change_password=True)
    sign_in_there()
    assert client.get("/").headers["Location"] == "/accounts/password/change/"


def test_same_subject_of_another_provider_is_another_person(
    client: Client,
    bob: User,
    forger: ForgingProvider,
    settings: Settings,
    sign_in_there: SignIn,
    begin: Begin,
) -> None:
    other = msgspec.structs.replace(settings.OIDC_PROVIDERS[0], id="other", client_id="other")
    settings.OIDC_PROVIDERS = (*settings.OIDC_PROVIDERS, other)
    connect(bob, provider="other")
    sign_in_there()
    assert signed_in_user(client) == "dora"
    # And what one provider began, another can't end.
    answer = begin("other")
    client.post("/accounts/logout/")
    assert client.get("/accounts/oidc/corp/login/callback/", answer).url == "/accounts/login/"  # type: ignore[attr-defined]


def test_changed_address_stays_the_same_account(
    client: Client, bob: User, forger: ForgingProvider, configure: Configure, sign_in_there: SignIn
) -> None:
    connect(bob)
    forger.claims = {"email": "robert@example.com"}
    sign_in_there()
    bob.refresh_from_db()
    assert (signed_in_user(client), bob.email) == ("bob", "bob@example.com")
    configure(trust_addresses=True)
    sign_in_there()
    bob.refresh_from_db()
    assert bob.email == "robert@example.com"


def test_changed_address_of_another_account_is_not_taken_over(
    client: Client,
    bob: User,
    alice: User,
    forger: ForgingProvider,
    configure: Configure,
    sign_in_there: SignIn,
) -> None:
    connect(bob)
    configure(trust_addresses=True)
    forger.claims = {"email": "alice@example.com"}
    sign_in_there()
    bob.refresh_from_db()
    assert (signed_in_user(client), bob.email) == ("bob", "bob@example.com")


def test_inactive_user_does_not_sign_in(
    client: Client, bob: User, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    connect(bob)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert sign_in_there().url == "/accounts/inactive/"
    assert not is_signed_in(client)


def test_sign_in_replaces_the_session_of_another_person(
    client: Client, bob: User, alice: User, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    connect(bob)
    client.force_login(alice)
    before = client.session.session_key
    sign_in_there()
    assert signed_in_user(client) == "bob"
    assert client.session.session_key != before


def test_session_ends_as_after_a_password(
    client: Client, bob: User, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    connect(bob)
    sign_in_there()
    assert client.session["began_at"] == client.session["active_at"]


def test_sign_in_is_in_the_audit_and_sends_no_mail(
    bob: User, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    connect(bob)
    sign_in_there()
    event = AuditEvent.objects.get(action=Action.SIGNED_IN)
    assert (event.actor, event.address) == ("bob", "127.0.0.1")
    assert mail.outbox == []


def test_claims_are_not_stored(forger: ForgingProvider, sign_in_there: SignIn) -> None:
    sign_in_there()
    assert SocialAccount.objects.get().extra_data == {"iss": forger.issuer}


def test_beginnings_are_limited(
    client: Client, forger: ForgingProvider, settings: Settings
) -> None:
    """Attack: each makes this server send a request to the provider."""
    settings.ACCOUNT_RATE_LIMITS = settings.ACCOUNT_RATE_LIMITS | {"openid": "2/m/ip"}
    statuses = [client.post("/accounts/oidc/corp/login/").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


def test_second_factor_is_asked_for_after_the_provider(
    client: Client, bob: User, sign_in_there: SignIn
) -> None:
    connect(bob)
    Authenticator.objects.create(user=bob, type=Authenticator.Type.TOTP, data={"secret": "x"})
    assert sign_in_there().url == "/accounts/second-factor/"
    assert not is_signed_in(client)


@pytest.mark.parametrize("path", ["add/", "1/change/"])
def test_nobody_connects_accounts_in_the_admin(client: Client, bob: User, path: str) -> None:
    """Attack: a staff user connects a superuser's account to a person of theirs."""
    User.objects.filter(pk=bob.pk).update(is_staff=True, is_superuser=True)
    account = connect(bob)
    client.force_login(bob)
    assert client.get("/admin/socialaccount/socialaccount/").status_code == 200
    path = f"/admin/socialaccount/socialaccount/{path}".replace("/1/", f"/{account.pk}/")
    assert client.post(path, {"user": "1", "uid": "x"}).status_code == 403
    for model in ("socialapp", "socialtoken"):
        assert client.get(f"/admin/socialaccount/{model}/").status_code == 404

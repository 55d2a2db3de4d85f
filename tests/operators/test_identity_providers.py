"""Operators add identity providers, change them, and end them."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from cryptography.fernet import Fernet
from django.test import Client
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.operators.identity_providers import changes
from keyportal.operators.identity_providers.forms import AGAIN
from keyportal.operators.identity_providers.presets import PRESETS
from keyportal.operators.views import providers
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.openid.configuration import SCIM, IdentityProvider
from keyportal.teams.openid.providers import identity_providers
from keyportal.teams.openid.stored import StoredProvider
from tests.operators.conftest import BeforeLock
from tests.support import identity_provider
from tests.support.cases import own_case
from tests.support.forms import form_data
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, ForgingProvider

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
PAGES = "/operators/sign-in/"
SECRET = "very-s3cret"
FIELDS = {
    "provider_id": "corp",
    "name": "Corp SSO",
    "issuer": "https://sso.example.com/realms/staff",
    "client_id": "keyportal",
    "secret": SECRET,
    "domains": "Example.com, example.org",
    "create_accounts": "on",
}


@pytest.fixture
def corp(db: None) -> StoredProvider:
    row = StoredProvider(provider_id="corp", name="Corp SSO", issuer=FIELDS["issuer"])
    row.client_id, row.client_secret = "keyportal", SECRET
    row.save()
    return row


def add(operator: Client, **fields: Any) -> Any:
    form = form_data(operator.get(f"{PAGES}add/"), **FIELDS) | fields
    return operator.post(f"{PAGES}add/", {name: text for name, text in form.items() if text})


def edit(operator: Client, row: StoredProvider, **fields: Any) -> Any:
    path = f"{PAGES}{row.pk}/edit/"
    return operator.post(path, form_data(operator.get(path), **fields))


def errors(response: Any) -> str:
    """Without the one that asks for what was entered and is not displayed."""
    assert response.status_code == 422, response.get("Location")
    texts = [text for texts in response.context["form"].errors.values() for text in texts]
    return " ".join(text for text in texts if text != AGAIN)


def test_placeholder_of_a_preset_must_be_replaced(operator: Client) -> None:
    for preset in [preset for preset in PRESETS if preset.placeholder]:
        with own_case(preset):
            assert f"Replace {preset.placeholder}" in errors(add(operator, issuer=preset.address))


def test_form_names_the_redirect_address_of_the_preset(operator: Client) -> None:
    text = operator.get(f"{PAGES}add/?preset=google").content.decode()
    assert "/accounts/oidc/google/login/callback/" in text


def test_provider_is_offered_with_the_next_request(operator: Client, settings: Settings) -> None:
    settings.PUBLIC_URL = "https://keys.example.com"
    client = Client()  # Nobody's.
    assert "Corp SSO" not in client.get("/accounts/login/").content.decode()
    assert "No identity providers yet." in operator.get(PAGES).content.decode()
    answer = add(operator)
    row = StoredProvider.objects.get()
    assert answer["Location"] == f"{PAGES}{row.pk}/"
    assert "Sign in with Corp SSO" in client.get("/accounts/login/").content.decode()
    (provider,) = identity_providers()
    assert (provider.client_secret, provider.create_accounts) == (SECRET, True)
    assert provider.domains == ("Example.com", "example.org")
    page = operator.get(answer["Location"]).content.decode()
    assert "https://keys.example.com/accounts/oidc/corp/login/callback/" in page
    event = AuditEvent.objects.filter(action=Action.PROVIDER_CHANGED).earliest("pk")
    assert event.actor == "olga"
    assert event.target.startswith("Identity provider corp: created")


def test_secret_is_nowhere(
    operator: Client, corp: StoredProvider, caplog: pytest.LogCaptureFixture
) -> None:
    pages = [edit(operator, corp, secret="an0ther-s3cret", name="")]
    edit(operator, corp, secret="an0ther-s3cret")
    paths = ("", f"{corp.pk}/", f"{corp.pk}/edit/", f"{corp.pk}/off/", f"{corp.pk}/delete/")
    pages += [operator.get(PAGES + path) for path in paths]
    texts = [page.content.decode() for page in pages]
    texts += [*AuditEvent.objects.values_list("target", flat=True), caplog.text]
    texts += [json.dumps(dict(operator.session)), repr(identity_providers())]
    texts += [str(value) for row in StoredProvider.objects.values() for value in row.values()]
    assert not [text for text in texts if "s3cret" in text]
    corp.refresh_from_db()
    assert corp.client_secret == "an0ther-s3cret"
    assert AuditEvent.objects.filter(target__contains="Secret: changed", actor="olga").exists()


def test_forbidden_combinations_are_refused_in_one_sentence(
    operator: Client, team: Team, settings: Settings
) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({"issuer": "http://sso.example.com"}, "an issuer that begins with https://"),
        ({"issuer": "https://user@sso.example.com"}, "an issuer that begins with https://"),
        ({"issuer": "https://sso.example.com/?a=b"}, "an issuer that begins with https://"),
        ({"provider_id": "../x"}, "Use lower-case letters, digits and hyphens."),
        ({"provider_id": "scim"}, "needs another id"),
        ({"provider_id": "env"}, "A provider of the environment has this ID."),
        ({"issuer": "https://env.example.com"}, "A provider of the environment has this issuer."),
        ({"secret": ""}, "Enter the client secret."),
        ({"scopes": "email"}, "needs the scope openid"),
        ({"domains": ""}, "needs domains, such as example.com"),
        ({"domains": "", "create_accounts": "", "trust_addresses": "on"}, "needs domains"),
        ({"groups": "staff"}, "Write “GROUP: SLUG ROLE”"),
        ({"groups": ": u-8105f7322477 member"}, "Write “GROUP: SLUG ROLE”"),
        ({"groups": "staff: u-8105f7322477 boss"}, "boss is no role."),
        ({"groups": "staff: nowhere member"}, "No team has the slug nowhere."),
    ]
    for change, said in cases:
        with own_case(change, said):
            env = IdentityProvider(
                id="env",
                name="Env",
                issuer="https://env.example.com",
                client_id="x",
                client_secret="x",
            )
            settings.OIDC_PROVIDERS = (env,)
            answer = add(operator, **change)
            assert said in errors(answer)
            assert errors(answer).count(". ") <= 1
            assert SECRET not in answer.content.decode()
            assert not StoredProvider.objects.exists()


def test_issuer_on_this_machine_may_be_http(operator: Client) -> None:
    """As in the environment."""
    assert add(operator, issuer="http://127.0.0.1:8080/realm").status_code == 302


def test_two_providers_of_one_issuer_are_refused(operator: Client, corp: StoredProvider) -> None:
    """Attack: who signs in with the second one keeps the roles that the first gave."""
    StoredProvider.objects.update(is_active=False)
    assert errors(add(operator, provider_id="second")) == "Another provider has this issuer."
    other = {"issuer": "https://other.example.com"}
    assert errors(add(operator, **other)) == "Another provider has this ID."


def test_groups_give_roles(operator: Client, corp: StoredProvider, team: Team) -> None:
    text = f"/staff: all: {team.slug} member\n\n leads:{team.slug}  Admin "
    assert edit(operator, corp, groups=text).status_code == 302
    corp.refresh_from_db()
    assert corp.groups == {"/staff: all": {team.slug: "member"}, "leads": {team.slug: "admin"}}
    # And the form shows what it takes.
    assert edit(operator, corp, name="Corp").status_code == 302
    assert StoredProvider.objects.get().groups == corp.groups
    assert "/staff: all" in operator.get(f"{PAGES}{corp.pk}/").content.decode()


def test_empty_secret_keeps_the_present_one(operator: Client, corp: StoredProvider) -> None:
    assert edit(operator, corp, name="Other name", provider_id="other").status_code == 302
    row = StoredProvider.objects.get()
    assert (row.provider_id, row.name, row.client_secret) == ("corp", "Other name", SECRET)


def test_another_issuer_gets_neither_secret_nor_people(
    operator: Client, corp: StoredProvider, bob: User
) -> None:
    """Attack: an issuer whose people have the identifiers of those who are connected."""
    other = {"issuer": "https://other.example.com"}
    assert "enter its client secret" in errors(edit(operator, corp, **other))
    account = SocialAccount.objects.create(user=bob, provider="corp", uid="1")
    answer = edit(operator, corp, **other, secret="new")
    assert "People are connected at this issuer." in errors(answer)
    # It comes back without the secret, which would then be the former one again.
    assert AGAIN in answer.content.decode()
    account.delete()
    assert edit(operator, corp, **other, secret="new").status_code == 302


def test_form_that_is_out_of_date_is_refused(operator: Client, corp: StoredProvider) -> None:
    path = f"{PAGES}{corp.pk}/edit/"
    form = form_data(operator.get(path), name="Mine")
    StoredProvider.objects.update(domains="example.net")
    assert "Changed since you opened this page: allowed domains." in errors(
        operator.post(path, form)
    )


def test_presets_fill_in_the_form(operator: Client) -> None:
    for preset in PRESETS:
        fields = form_data(operator.get(f"{PAGES}add/", {"preset": preset.name}))
        assert fields["issuer"] == [preset.address]
        assert ("addresses_verified" in fields) is preset.addresses_verified


def test_environments_providers_are_read_only(
    operator: Client, corp: StoredProvider, settings: Settings, bob: User
) -> None:
    """And count, if both have the ID: who sets them may do everything."""
    env = IdentityProvider(
        id="corp", name="Of the start", issuer="https://env.example.com", client_id="x"
    )
    settings.OIDC_PROVIDERS = (env,)
    assert identity_providers() == [env]
    page = operator.get(PAGES).content.decode()
    assert "Environment, read-only" in page
    assert "Not used: the environment has its ID or issuer" in page
    settings.OIDC_PROVIDERS = (msgspec.structs.replace(env, id="env", issuer=corp.issuer),)
    assert [provider.id for provider in identity_providers()] == ["env"]
    settings.OIDC_PROVIDERS = (env,)
    # The connected accounts are those of the environment's now.
    bob.set_unusable_password()
    bob.save(update_fields=["password"])
    account = SocialAccount.objects.create(user=bob, provider="corp", uid="1")
    assert operator.get(f"{PAGES}{corp.pk}/delete/").context["effect"].stranded == 0
    operator.post(f"{PAGES}{corp.pk}/delete/")
    assert SocialAccount.objects.get() == account


def test_lost_key_of_the_secret_is_said(
    operator: Client, corp: StoredProvider, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CREDENTIAL_KEYS = (Fernet.generate_key().decode(),)
    assert "Corp SSO" not in Client().get("/accounts/login/").content.decode()
    assert "Nobody can sign in with corp: its secret is lost." in caplog.text
    assert "Secret lost" in operator.get(PAGES).content.decode()
    tested = operator.post(f"{PAGES}{corp.pk}/test/")
    assert tested.context["steps"] is None
    assert f'action="{PAGES}{corp.pk}/edit/"' in tested.content.decode()
    assert errors(edit(operator, corp, name="x")) == "Enter the client secret."
    assert edit(operator, corp, secret="new").status_code == 302
    assert identity_providers()


@pytest.fixture(scope="module")
def running_provider() -> Iterator[ForgingProvider]:
    with identity_provider.running() as server:
        yield server


def test_test_says_what_it_found(
    operator: Client, corp: StoredProvider, running_provider: ForgingProvider
) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        (CLIENT_SECRET, {}, "It accepts them"),
        (SECRET, {}, "It refuses them."),
        (CLIENT_SECRET, {"/token": (500, b"s3cret")}, "whether it knows them"),
        (CLIENT_SECRET, {"/token": (400, b'{"error": "s3cret"}')}, "whether it knows them"),
        (CLIENT_SECRET, {"/jwks": (200, b"[]")}, "is not a list of keys"),
        (CLIENT_SECRET, {"/.well-known/openid-configuration": (404, b"")}, "the status 404"),
    ]
    for secret, bodies, said in cases:
        with own_case(secret, bodies, said):
            running_provider.reset()
            running_provider.bodies = bodies
            corp.issuer, corp.client_id, corp.client_secret = (
                running_provider.issuer,
                CLIENT_ID,
                secret,
            )
            corp.save()
            page = operator.post(f"{PAGES}{corp.pk}/test/").content.decode()
            assert said in page
            assert "s3cret" not in page


def test_page_says_who_can_then_not_sign_in(
    operator: Client, corp: StoredProvider, alice: User, bob: User, vera: User, charlie: User
) -> None:
    for person in (alice, bob, vera, charlie):
        SocialAccount.objects.create(user=person, provider="corp", uid=person.username)
        if person != alice:  # She has a password.
            person.set_unusable_password()
            person.save(update_fields=["password"])
    Authenticator.objects.create(user=bob, type=Authenticator.Type.WEBAUTHN, data={})
    StoredProvider.objects.create(
        provider_id="other", issuer="https://x", encrypted_secret=corp.encrypted_secret
    )
    SocialAccount.objects.create(user=vera, provider="other", uid="1")
    for path in ("off/", "delete/"):
        page = operator.get(f"{PAGES}{corp.pk}/{path}")
        assert page.context["effect"][:3] == (4, 1, ["charlie"])
        assert "1 person can then not sign in" in page.content.decode()


def test_switched_off_and_on(operator: Client, corp: StoredProvider) -> None:
    path = f"{PAGES}{corp.pk}/"
    for act, is_offered in (("off/", False), ("on/", True)):
        operator.post(path + act)
        assert ("Corp SSO" in Client().get("/accounts/login/").content.decode()) is is_offered
        assert bool(identity_providers()) is is_offered
    assert operator.get(f"{path}on/")["Location"] == path


def test_roles_that_groups_gave_stay_and_are_told(
    operator: Client, corp: StoredProvider, team: Team, bob: User, alice: User
) -> None:
    """They decide about keys: a provider that is deleted by mistake must stop nothing."""
    bobs = Membership.objects.filter(team=team, user=bob)
    bobs.update(role=Role.ADMIN, granted_by="corp")
    owner = Client()
    owner.force_login(alice)
    members, told = (
        f"/teams/{team.slug}/members/",
        f"1 role that its groups gave stays, in {team.name}.",
    )
    assert ">By group<" in owner.get(members).content.decode()
    assert "former providers" not in operator.get(PAGES).content.decode()
    for path in ("off/", "delete/"):
        assert told in operator.get(f"{PAGES}{corp.pk}/{path}").content.decode()
    operator.post(f"{PAGES}{corp.pk}/delete/")
    assert operator.get(PAGES).context["left"] == [("corp", 1, [team.name])]
    assert "Roles of former providers" in operator.get(PAGES).content.decode()
    assert ">By former group<" in owner.get(members).content.decode()
    assert bobs.get().role == Role.ADMIN


def test_roles_of_a_provider_of_the_environment_are_told_when_it_is_gone(
    operator: Client, team: Team, bob: User, settings: Settings
) -> None:
    Membership.objects.filter(team=team, user=bob).update(granted_by="corp")
    provider = IdentityProvider(
        id="corp", name="x", issuer="https://sso.example.com", client_id="x"
    )
    settings.OIDC_PROVIDERS = (provider,)
    assert operator.get(PAGES).context["left"] == []
    settings.OIDC_PROVIDERS = ()
    assert operator.get(PAGES).context["left"] == [("corp", 1, [team.name])]


def test_roles_of_a_directory_are_told_when_it_is_gone(
    operator: Client, team: Team, bob: User, settings: Settings
) -> None:
    Membership.objects.filter(team=team, user=bob).update(granted_by=SCIM)
    for tokens, expected in ((("a token",), []), ((), [(SCIM, 1, [team.name])])):
        settings.SCIM_TOKENS = tokens
        assert operator.get(PAGES).context["left"] == expected


def test_deletion_forgets_who_was_connected(
    operator: Client, corp: StoredProvider, bob: User
) -> None:
    """Attack: a later provider of this ID has somebody else with bob's identifier."""
    SocialAccount.objects.create(user=bob, provider="corp", uid="1")
    other = SocialAccount.objects.create(user=bob, provider="other", uid="1")
    assert operator.post(f"{PAGES}{corp.pk}/delete/")["Location"] == PAGES
    assert [*SocialAccount.objects.all()] == [other]
    assert AuditEvent.objects.filter(target="Identity provider corp: deleted").exists()


def test_provider_that_was_deleted_is_404(operator: Client) -> None:
    for path in ("", "edit/", "off/", "on/", "delete/", "test/"):
        with own_case(path):
            assert operator.post(f"{PAGES}4711/{path}").status_code in {404, 405}


@pytest.mark.parametrize("path", ["add/", "{}/edit/", "{}/off/", "{}/on/", "{}/delete/"])
def test_request_of_a_former_operator_changes_nothing(
    operator: Client,
    olga: User,
    corp: StoredProvider,
    path: str,
    before_lock: BeforeLock,
) -> None:
    """The flag is taken while the form is open, after the page has let them in."""
    path = PAGES + path.format(corp.pk)
    form = form_data(operator.get(path), **FIELDS | {"name": "stolen"})
    olgas = User.objects.filter(pk=olga.pk)
    before_lock("lock_operators", lambda: olgas.update(is_superuser=False), providers, changes)
    before = [*StoredProvider.objects.values()]
    new = {"provider_id": "new", "issuer": "https://new.example.com"}
    assert operator.post(path, form | new).status_code == 404
    assert [*StoredProvider.objects.values()] == before

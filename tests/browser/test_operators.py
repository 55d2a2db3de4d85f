"""The operators' pages: axe finds nothing, nothing sticks out, and they work without JavaScript."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from keyportal.catalog.aliases import Alias
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.teams.models import Team, User
from keyportal.teams.openid.stored import StoredProvider
from tests.support import identity_provider
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET
from tests.support.looks import assert_page_fits_and_axe_finds_nothing
from tests.support.model_list_server import ModelListServer, running

pytestmark = pytest.mark.browser
Open = Callable[..., Page]


@pytest.fixture
def model_list() -> Iterator[ModelListServer]:
    with running() as server:
        server.lists("llama-70b", "m" * 150)
        yield server


@pytest.fixture
def olga(live: object) -> User:
    return User.objects.create_superuser("olga", "olga@example.com")


def pages(model_list: ModelListServer, team: Team, person: User) -> list[str]:
    """With the longest names."""
    upstream = Upstream.objects.create(name="n" * 64, base_url=f"{model_list.url}/v1")
    model = ServedModel.objects.create(name=f"public/{'m' * 190}", description="d" * 500)
    Route.objects.create(model=model, upstream=upstream, upstream_model="m" * 200)
    Alias.objects.create(name="a" * 200, model=model)
    Team.objects.filter(pk=team.pk).update(name="W" * 100)
    provider = StoredProvider.objects.create(
        provider_id="i" * 40,
        name="n" * 40,
        issuer=f"https://{'i' * 490}",
        client_id="c" * 200,
        encrypted_secret="of-a-lost-key",
        groups={"g" * 200: {team.slug: "member"}},
    )
    paths = ("", "edit/", "discover/", "models/add/", "delete/")
    return [
        "teams/",
        "teams/create/",
        f"teams/{team.pk}/",
        f"teams/{team.pk}/off/",
        "people/",
        f"people/{person.pk}/",
        f"people/{person.pk}/deactivate/",
        f"sign-in/{provider.pk}/",
        f"sign-in/{provider.pk}/edit/",
        "servers/",
        "servers/add/?preset=vllm",
        *(f"servers/{upstream.pk}/{path}" for path in paths),
        "models/",
        f"models/{model.pk}/",
        "settings/",
        "health/",
    ]


def test_pages_are_accessible_and_fit(
    looked_at: Open, olga: User, team: Team, alice: User, model_list: ModelListServer
) -> None:
    page = looked_at(olga)
    for path in pages(model_list, team, alice):
        assert_page_fits_and_axe_finds_nothing(page, f"/operators/{path}")


def test_server_is_added_tested_and_served_without_javascript(
    new_page: Open, olga: User, model_list: ModelListServer
) -> None:
    page = new_page(olga, java_script_enabled=False)
    page.goto("/operators/servers/add/")
    page.get_by_role("link", name="vLLM").click()
    page.get_by_label("Base URL").fill(model_list.url)
    page.get_by_role("button", name="Add").click()
    page.get_by_role("button", name="Test").click()
    expect(page.get_by_role("row", name="Connection")).to_contain_text("It answers.")
    page.get_by_role("link", name="vllm").click()
    page.get_by_role("button", name="Discover").click()
    page.get_by_label("Serve llama-70b").check()
    page.get_by_role("button", name="Serve", exact=True).click()
    expect(page.get_by_text("Served now: public/llama-70b.")).to_be_visible()
    page.get_by_role("button", name="Switch off").click()
    expect(page.get_by_text("Off", exact=True)).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Delete model server")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No model servers yet.")).to_be_visible()


def test_identity_provider_is_added_tested_and_deleted(new_page: Open, olga: User) -> None:
    page, stranger = new_page(olga), new_page()
    page.goto("/operators/sign-in/")
    page.get_by_role("button", name="Add identity provider").click()
    page.get_by_role("link", name="Keycloak").click()
    with identity_provider.running() as provider:
        page.get_by_label("Name on the button").fill("Corp SSO")
        page.get_by_label("ID", exact=True).fill("corp")
        page.get_by_label("Issuer").fill(provider.issuer)
        page.get_by_label("Client ID").fill(CLIENT_ID)
        page.get_by_label("Client secret").fill(CLIENT_SECRET)
        page.get_by_role("button", name="Add").click()
        page.get_by_role("button", name="Test").click()
        expect(page.get_by_role("row", name="Discovery")).to_contain_text("OK")
    stranger.goto("/accounts/login/")
    expect(stranger.get_by_role("button", name="Corp SSO")).to_be_visible()
    page.get_by_role("link", name="Corp SSO").click()
    page.get_by_role("button", name="Switch off").click()
    page.get_by_role("button", name="Switch off").click()
    expect(page.get_by_text("Off", exact=True)).to_be_visible()
    stranger.reload()
    expect(stranger.get_by_role("button", name="Corp SSO")).to_have_count(0)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No identity providers yet.")).to_be_visible()

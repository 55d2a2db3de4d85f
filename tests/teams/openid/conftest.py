"""An identity provider that can forge, and a browser's way through it with Django's client."""

from collections.abc import Callable, Iterator
from html import unescape
from typing import Any

import msgspec
import pytest
from django.core.cache import cache
from django.test import Client
from pytest_django import Settings

from keyportal.teams.openid.configuration import IdentityProvider
from tests.support import identity_provider
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, ForgingProvider


@pytest.fixture(scope="package")
def forging_provider() -> Iterator[ForgingProvider]:
    with identity_provider.running() as server:
        yield server


@pytest.fixture
def forger(forging_provider: ForgingProvider, settings: Settings) -> ForgingProvider:
    """As it is at first, and configured: accounts are made for its domain, none is connected."""
    forging_provider.reset()
    cache.clear()  # It has the count of sign-ins.
    provider = IdentityProvider(
        id="corp",
        name="Corp SSO",
        issuer=forging_provider.issuer,
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        domains=("example.com",),
        create_accounts=True,
    )
    settings.OIDC_PROVIDERS = (provider,)
    settings.PUBLIC_URL = "http://testserver"
    return forging_provider


@pytest.fixture
def configure(forger: ForgingProvider, settings: Settings) -> Callable[..., IdentityProvider]:
    """Change fields of the provider: `configure(trust_addresses=True)`."""

    def configure(**fields: Any) -> IdentityProvider:
        changed: IdentityProvider = msgspec.structs.replace(settings.OIDC_PROVIDERS[0], **fields)
        settings.OIDC_PROVIDERS = (changed, *settings.OIDC_PROVIDERS[1:])
        return changed

    return configure


Begin = Callable[..., dict[str, str]]


@pytest.fixture
def begin(client: Client, forger: ForgingProvider) -> Begin:
    """Press the button; return what the provider gives the browser for the callback."""

    def begin(provider: str = "corp", **data: str) -> dict[str, str]:
        page = client.post(f"/accounts/oidc/{provider}/login/", data).content.decode()
        return forger.authorize(unescape(page.partition("url=")[2].partition('"')[0]))

    return begin


@pytest.fixture
def come_back(client: Client) -> Callable[[dict[str, str]], Any]:
    def come_back(answer: dict[str, str]) -> Any:
        return client.get("/accounts/oidc/corp/login/callback/", answer)

    return come_back


@pytest.fixture
def sign_in_there(begin: Begin, come_back: Callable[..., Any]) -> Callable[..., Any]:
    """The whole way; return the response of the callback."""
    return lambda **data: come_back(begin(**data))


def is_signed_in(client: Client) -> bool:
    return "_auth_user_id" in client.session

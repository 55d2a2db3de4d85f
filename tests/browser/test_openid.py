"""Sign-in at an identity provider from PyPI, in a browser, with and without JavaScript."""

import json
import re
import warnings
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from keyportal.teams.models import User
from tests.browser.conftest import KEYS, TIMEOUT_SECONDS, _note_violation
from tests.support.pages import button
from tests.support.server import Server

pytestmark = [
    pytest.mark.browser,
    pytest.mark.any_database,
    # Of the provider, in a thread of this process.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def server(own_server: Callable[..., Server]) -> Iterator[Server]:
    with warnings.catch_warnings(record=True):
        # It uses a module that Authlib deprecates.
        import oidc_provider_mock

    bob = {"email": "bob@example.com", "email_verified": True}
    people = [
        oidc_provider_mock.User(sub="1", claims=bob),
        oidc_provider_mock.User(sub="2", claims={"email": "alice@example.com"}),
    ]
    with oidc_provider_mock.run_server_in_thread(
        user_claims=people, require_nonce=True
    ) as provider:
        corp = {
            "id": "corp",
            "name": "Corp SSO",
            "issuer": f"http://localhost:{provider.server_port}",
            "client_id": "keyportal",
            "client_secret": "s3cret",
            "domains": ["example.com"],
            "trust_addresses": True,
        }
        yield own_server(KEYPORTAL_OIDC_PROVIDERS=json.dumps([corp]))


def test_people_sign_in_at_an_identity_provider(
    chromium: Browser, server: Server, bob: User, alice: User
) -> None:
    violations: list[str] = []
    for javascript in (True, False):
        context = chromium.new_context(base_url=server.url, java_script_enabled=javascript)
        context.set_default_timeout(TIMEOUT_SECONDS * 1000)
        context.on("console", lambda message: _note_violation(message, violations))
        page = context.new_page()
        go_to_the_provider(page)
        button(page, "2").click()
        expect(page.get_by_text("may not sign in here")).to_be_visible()
        go_to_the_provider(page)
        button(page, "1").click()
        expect(page).to_have_url(f"{server.url}{KEYS}")
        expect(page.locator("summary", has_text="bob")).to_be_visible()
        context.close()
    assert violations == []


def go_to_the_provider(page: Page) -> None:
    page.goto(KEYS)
    button(page, "Sign in with Corp SSO").click()
    expect(page).to_have_url(re.compile(r"/oauth2/authorize\?"))

"""A Chromium in front of the running Keyportal. Its pages must neither throw nor break our CSP."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.core.cache import cache
from django.db import connections
from django.test import Client
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    WebError,
    expect,
    sync_playwright,
)

from keyportal.teams.models import User
from tests.conftest import PASSWORD
from tests.support.server import Server

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
KEYS = "/teams/u-8105f7322477/keys/"
SECONDS = 40.0  # What a loaded machine may need for one step.


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One a module and not a session: while Playwright lives, this thread has a running event
    loop, in which other tests could not call `asyncio.run`."""
    expect.set_options(timeout=SECONDS * 1000)
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Django refuses queries beside a running loop, because they would stall it. This one is
        # Playwright's own and only runs inside its calls, where no query is made.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, CHROMIUMS)), None),
            # It only visits this server, and needs rights that containers rarely give.
            chromium_sandbox=False,
            # Back shows the page as it was left, as it does for people.
            ignore_default_args=["--disable-back-forward-cache"],
        )
        yield browser
        browser.close()
        connections.close_all()


@pytest.fixture
def new_page(chromium: Browser, live: Server) -> Iterator[Callable[..., Page]]:
    """Open a browser of one's own: `new_page(bob)` is signed in, `new_page()` is not.

    What else is given describes the browser, such as `timezone_id`.
    """
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def new_page(user: User | None = None, **options: Any) -> Page:
        context = chromium.new_context(base_url=live.url, **options)
        contexts.append(context)
        context.set_default_timeout(SECONDS * 1000)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.on("weberror", lambda error: _note_error(error, complaints))
        context.on("console", lambda message: _note_violation(message, complaints))
        if user is not None:
            give_session(context, user, live)
        return context.new_page()

    yield new_page
    for context in contexts:
        context.close()
    assert complaints == []


def _note_error(error: WebError, complaints: list[str]) -> None:
    complaints.append(str(error.error))


def _note_violation(message: ConsoleMessage, complaints: list[str]) -> None:
    if "Content Security Policy" in message.text:
        complaints.append(message.text)


def give_session(context: BrowserContext, user: User, live: Server) -> None:
    """Sign in without the form, which has tests of its own."""
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": live.url}])


@pytest.fixture
def open_keys(new_page: Callable[..., Page]) -> Callable[..., Page]:
    """The team's API Keys page, in a browser of the user's own."""

    def open_keys(user: User, **options: Any) -> Page:
        page = new_page(user, **options)
        page.goto(KEYS)
        return page

    return open_keys


@pytest.fixture
def with_password(live: Server) -> Callable[[User], User]:
    """Give somebody a password that the server can check: the tests' own hasher is not its."""
    cache.clear()  # The limit on sign-ins counts those of other tests, too.

    def with_password(user: User) -> User:
        user.password = PBKDF2PasswordHasher().encode(PASSWORD, "salt", iterations=1)
        user.save(update_fields=["password"])
        return user

    return with_password

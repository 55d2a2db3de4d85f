"""A Chromium that visits the running Keyportal. Pages must neither throw nor violate the CSP."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from axe_playwright_python.base import AXE_SCRIPT
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

CHROMIUMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
KEYS = "/teams/u-8105f7322477/keys/"
TIMEOUT_SECONDS = 60.0  # A busy machine may need that much for one step.


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One Chromium for all browser tests of a process; each test has its own contexts.

    Not for the session: while Playwright runs, this thread has a running event loop, and other
    tests could not call `asyncio.run`.
    """
    expect.set_options(timeout=TIMEOUT_SECONDS * 1000)
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Django refuses queries in a thread with a running loop, because they would block it. This
        # loop is Playwright's and runs only inside its calls, which make no queries.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(
            timeout=2 * TIMEOUT_SECONDS * 1000,
            executable_path=next(filter(None, map(shutil.which, CHROMIUMS)), None),
            # The sandbox needs rights that containers rarely have. Chromium visits only our server.
            chromium_sandbox=False,
            # "Back" restores the page from the cache, as it does for users.
            ignore_default_args=["--disable-back-forward-cache"],
            # For each window, Chromium would start processes for pop-ups of the address bar, which
            # take half of the CPU time of a short test.
            args=[
                "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup",
                "--process-per-site",  # See `kept`.
            ],
        )
        yield browser
        browser.close()
        connections.close_all()


KEPT: tuple[dict[str, Any], ...] = ({}, {"java_script_enabled": False})
"""The options of contexts that later tests use again."""


class Kept(NamedTuple):
    """A browser context of all tests.

    Its first page stays open, and with it the process for pages of the server, which has compiled
    their scripts: for a new process, that takes longer than most tests. A test gets new pages.
    Nothing moves in them, as some users ask of their browser; in contexts with other options, it
    does.
    """

    context: BrowserContext
    options: dict[str, Any]
    errors: list[str]

    def forget(self) -> None:
        """What a test left."""
        first, *others = self.context.pages
        for page in others:
            page.close()
        first.evaluate("localStorage.clear()")
        self.context.clear_cookies()

    def is_whole(self) -> bool:
        """A clock that a test stopped stays so, in all pages of the context."""
        return bool(self.context.pages[0].evaluate("`${setTimeout}`.includes('[native code]')"))


@pytest.fixture(scope="package")
def kept(chromium: Browser) -> list[Kept]:
    """Contexts that no test uses now."""
    return []


@pytest.fixture
def new_page(chromium: Browser, live: Server, kept: list[Kept]) -> Iterator[Callable[..., Page]]:
    """Open a page in a browser of its own: `new_page(bob)` is signed in, `new_page()` is not.

    `options` are those of Playwright's `new_context`, such as `timezone_id`.
    """
    used: list[Kept] = []

    def take(options: dict[str, Any]) -> BrowserContext:
        of_these = [each for each in kept if each.options == options]
        if of_these:
            kept.remove(of_these[0])
            used.append(of_these[0])
        else:
            errors: list[str] = []
            context = _new_context(chromium, live.url, errors, reduced_motion="reduce", **options)
            used.append(Kept(context, options, errors))
            context.new_page().goto("/static/nothing")
        return used[-1].context

    with contexts_at(live.url, chromium) as new_context:

        def new_page(user: User | None = None, **options: Any) -> Page:
            context = take(options) if options in KEPT else new_context(**options)
            if user is not None:
                give_session(context, user, live)
            return context.new_page()

        yield new_page
    errors: list[str] = []
    for each in used:
        each.forget()
        errors += each.errors
        each.errors.clear()
        if each.is_whole():
            kept.append(each)
        else:
            each.context.close()
    assert errors == []


@contextmanager
def contexts_at(url: str, chromium: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Make browser contexts for the server at this URL. They are closed at the end."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def new_context(**options: Any) -> BrowserContext:
        contexts.append(_new_context(chromium, url, errors, **options))
        return contexts[-1]

    yield new_context
    for context in contexts:
        context.close()
    assert errors == []


def _new_context(chromium: Browser, url: str, errors: list[str], **options: Any) -> BrowserContext:
    context = chromium.new_context(base_url=url, **options)
    context.set_default_timeout(TIMEOUT_SECONDS * 1000)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.on("weberror", lambda error: _note_error(error, errors))
    context.on("console", lambda message: _note_violation(message, errors))
    return context


def _note_error(error: WebError, errors: list[str]) -> None:
    errors.append(str(error.error))


def _note_violation(message: ConsoleMessage, errors: list[str]) -> None:
    if "Content Security Policy" in message.text:
        errors.append(message.text)


def give_session(context: BrowserContext, user: User, live: Server) -> None:
    """Sign in without the form, which has its own tests."""
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": live.url}])


@pytest.fixture
def open_keys(new_page: Callable[..., Page]) -> Callable[..., Page]:
    """Open the team's API keys page in a new browser context of the user."""

    def open_keys(user: User, **options: Any) -> Page:
        page = new_page(user, **options)
        page.goto(KEYS)
        return page

    return open_keys


@pytest.fixture
def looked_at(new_page: Callable[..., Page]) -> Callable[..., Page]:
    """Open a page as `new_page`, with axe in it."""

    def looked_at(user: User | None = None) -> Page:
        page = new_page(user)
        page.add_init_script(AXE_SCRIPT)
        return page

    return looked_at


@pytest.fixture
def with_password(live: Server) -> Callable[[User], User]:
    """Set a password with a hasher of the server; the tests use another one."""
    cache.clear()  # The limit on sign-ins also counts those of other tests.

    def with_password(user: User) -> User:
        user.password = PBKDF2PasswordHasher().encode(PASSWORD, "salt", iterations=1)
        user.save(update_fields=["password"])
        return user

    return with_password

"""Elements of the pages by their visible names, and common user actions."""

from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.sync_api import Locator, Page, expect

from keyportal.keys.models import ApiKey
from tests.conftest import PASSWORD
from tests.support.server import wait_until


def button(place: Page | Locator, name: str) -> Locator:
    return place.get_by_role("button", name=name, exact=True)


def link(place: Page | Locator, name: str) -> Locator:
    return place.get_by_role("link", name=name, exact=True)


def dialog(page: Page, name: str | None = None) -> Locator:
    element = page.get_by_role("dialog", name=name, exact=True)
    expect(element).to_be_visible()
    return element


def table(page: Page) -> Locator:
    return page.get_by_role("region", name="API keys")


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))


def create(page: Page, name: str) -> str:
    """Create a key in the dialog and return its key string; the panel stays open."""
    button(page, "Create").click()
    form = dialog(page, "Create API key")
    form.get_by_label("Name").fill(name)
    button(form, "OK").click()
    return shown_key(page)


def shown_key(page: Page) -> str:
    return page.locator("#new-key").inner_text()


def close_panel(page: Page) -> None:
    button(dialog(page, "API key created"), "Done").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def sign_in(page: Page, login: str, password: str = PASSWORD) -> None:
    page.get_by_label("Username or e-mail").fill(login)
    page.get_by_label("Password").fill(password)
    button(page, "Sign in").click()


def delete(page: Page, name: str) -> None:
    button(row(page, name), "Delete").click()
    button(dialog(page, "Delete API key"), "Delete").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def names(page: Page) -> Locator:
    """The names in the list, from the top."""
    return page.locator("tbody th .name")


def focused_text(page: Page) -> str:
    """The label or text of the focused element."""
    text: Any = page.evaluate(
        "(document.activeElement.ariaLabel || document.activeElement.innerText || '').trim()"
    )
    return str(text)


def contains_key_string(page: Page, key_string: str) -> bool:
    """Whether the page, or its storage in the browser, contains the key string."""
    storage = page.evaluate(
        "JSON.stringify([{...sessionStorage}, {...localStorage}, history.state])"
    )
    return key_string in page.content() or key_string in str(storage)


def key_named(name: str) -> ApiKey:
    return ApiKey.objects.get(name=name)


def expect_copied(page: Page, text: str) -> None:
    """The text is on the clipboard, or will be: a button says so for two seconds only."""
    wait_until(lambda: page.evaluate("navigator.clipboard.readText()") == text)


def stop_clock(page: Page) -> None:
    """What the page shows for some seconds stays, until the test lets time pass."""
    page.clock.install()
    page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))

"""A new installation: from its first sign-in to the first answer that a second person gets."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import TIMEOUT_SECONDS, contexts_at
from tests.conftest import PASSWORD
from tests.support import fake_upstream, installation, model_responses
from tests.support.fake_upstream import Upstream
from tests.support.installation import FIRST, Installation
from tests.support.lazy import LazyModule
from tests.support.pages import button, close_panel, create, dialog, link, row, sign_in

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

pytestmark = [pytest.mark.browser, pytest.mark.long, pytest.mark.any_database]
MODEL = "public/normal"


@pytest.fixture
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return installation.first_start(tmp_path_factory.getbasetemp())


@pytest.fixture
def place(first_start: Installation, tmp_path: Path) -> Iterator[Installation]:
    """Started once before; it serves until the end of the test."""
    place = first_start.copy(tmp_path / "data")
    with place.serving_again():
        yield place


@pytest.fixture
def password(first_start: Installation) -> str:
    """What the first start printed."""
    printed = re.fullmatch(FIRST.format(port=r"\d+"), first_start.printed.read_text())
    assert printed
    return printed[1]


@pytest.fixture
def new_context(chromium: Browser, place: Installation) -> Iterator[Callable[..., BrowserContext]]:
    with contexts_at(f"http://127.0.0.1:{place.port}", chromium) as new_context:
        yield new_context


@pytest.fixture
def model_server() -> Iterator[Upstream]:
    with fake_upstream.running() as server:
        server.models = ["normal"]
        yield server


def test_a_second_person_gets_an_answer_of_a_model_server_without_a_shell(
    place: Installation,
    password: str,
    new_context: Callable[..., BrowserContext],
    model_server: Upstream,
) -> None:
    demo = new_context().new_page()
    demo.goto("/")
    sign_in(demo, "demo", password)
    serve_a_model(demo, model_server)
    invitation = invite(demo, "carol@example.com")

    carol = new_context().new_page()
    key = first_key(carol, invitation)
    assert ask(place, key) == model_responses.TEXT
    assert model_server.received[-1].path == "/v1/chat/completions"
    find_the_call(demo)


def serve_a_model(page: Page, model_server: Upstream) -> None:
    """Add the model server on the operators' pages, test it, and serve its model to all teams."""
    page.locator("summary", has=page.get_by_text("demo", exact=True)).click()
    page.get_by_role("link", name="Operators").click()
    link(page, "Model servers").click()
    button(page, "Add").click()
    link(page, "vLLM").click()
    page.get_by_label("Base URL").fill(model_server.url)
    button(page, "Add").click()
    button(page, "Test").click()
    expect(row(page, "Short answer")).to_contain_text("OK")
    button(page, "Discover").click()
    page.get_by_label("Serve normal").check()
    button(page, "Serve").click()
    expect(page.get_by_text(f"Served now: {MODEL}.")).to_be_visible()


def invite(page: Page, address: str) -> str:
    """Invite somebody into the demo team, and copy the link, because no mail is set up."""
    link(page, "Keyportal").click()
    link(page, "Members").click()
    button(page, "Invite").click()
    invitation = dialog(page, "Invite")
    invitation.get_by_label("E-mail addresses").fill(address)
    button(invitation, "Invite").click()
    links = dialog(page, "Invited")
    button(links, "Copy").click()
    copied = _copied(page)
    button(links, "Done").click()
    return copied


def first_key(page: Page, invitation: str) -> str:
    """Make an account with the link, create a key and copy it."""
    page.goto(invitation)
    page.get_by_label("Username").fill("carol")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Repeat password").fill(PASSWORD)
    button(page, "Make an account and join").click()
    shown = create(page, "first")
    button(dialog(page, "API key created"), "Copy").first.click()
    key = _copied(page)
    assert key == shown
    close_panel(page)
    return key


def _copied(page: Page) -> str:
    expect(page.get_by_text("Copied").first).to_be_attached()
    text: Any = page.evaluate("navigator.clipboard.readText()")
    return str(text)


def ask(place: Installation, key: str) -> str | None:
    base_url = f"http://127.0.0.1:{place.port}/v1"
    with openai.OpenAI(base_url=base_url, api_key=key, timeout=TIMEOUT_SECONDS) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello, model!"}]
        )
    return answer.choices[0].message.content


def find_the_call(page: Page) -> None:
    """It is written a few seconds after its end."""
    link(page, "Usage").click()
    link(page, "Calls").click()
    call = row(page, MODEL)
    deadline = time.monotonic() + 2 * TIMEOUT_SECONDS
    while not call.count() and time.monotonic() < deadline:
        page.wait_for_timeout(200)
        page.reload()
    expect(call).to_contain_text("first")
    expect(call).to_contain_text("200")

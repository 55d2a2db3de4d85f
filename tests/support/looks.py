"""What a page looks like: nothing sticks out of a window, and axe finds nothing.

Axe looks at pages of the fixture `looked_at`.
"""

from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Page, ViewportSize, expect

from tests.support.pages import dialog

WIDE, NARROW = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)
SIZES = (WIDE, NARROW)
# What the size of the window or the theme can change.
OF_THE_SIZE = ["color-contrast", "scrollable-region-focusable", "target-size"]
CLIPPED = """selector => [...document.querySelectorAll(selector)]
    .filter(each => each.scrollWidth > each.clientWidth).map(each => each.outerHTML)"""


def sticks_out(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def clipped(page: Page, selector: str) -> list[str]:
    """The elements whose content is wider than they are, as HTML."""
    found: list[str] = page.evaluate(CLIPPED, selector)
    return found


def assert_dialog_fits(page: Page, name: str) -> None:
    expect(dialog(page, name)).to_be_in_viewport(ratio=1)
    assert clipped(page, "dialog") == []
    assert not sticks_out(page)


def sizes_of(page: Page, path: str) -> Iterator[ViewportSize]:
    """Open this page in a narrow window, and then make the window wide: charts, which are drawn
    again a moment later, do not stick out meanwhile."""
    page.set_viewport_size(NARROW)
    page.goto(path)
    yield NARROW
    page.set_viewport_size(WIDE)
    yield WIDE


def assert_page_fits_and_axe_finds_nothing(page: Page, path: str) -> None:
    """In one load, as `assert_axe_finds_nothing`; a card that stands alone is not clipped."""
    page.set_viewport_size(NARROW)
    page.emulate_media(color_scheme="dark")
    page.goto(path)
    for _ in _looks(page):
        assert not sticks_out(page), (page.url, page.viewport_size)
        assert clipped(page, ".card.alone") == [], (page.url, page.viewport_size)


def assert_axe_finds_nothing(page: Page, place: str = "html") -> None:
    """By all of axe's rules in a wide window in the light theme; by those that a size or a theme
    can break in a narrow window in the dark one. In an open dialog, with `place` "dialog"."""
    for _ in _looks(page, place):
        pass


def _looks(page: Page, place: str = "html") -> Iterator[None]:
    """Yields after each change of the window, before axe looks."""
    page.set_viewport_size(NARROW)
    page.emulate_media(color_scheme="dark")
    yield
    found = violations(page, place, runOnly=OF_THE_SIZE)
    assert found == [], found
    page.set_viewport_size(WIDE)
    page.emulate_media(color_scheme="light")
    yield
    found = violations(page, place)
    assert found == [], found


def violations(page: Page, place: str = "html", **options: object) -> list[str]:
    # No rule that is on reads the style sheets, which axe would fetch before it begins.
    options |= {"resultTypes": ["violations"], "preload": False}
    run = "([place, options]) => axe.run(place, options).then(found => found.violations)"
    found: list[dict[str, Any]] = page.evaluate(run, [place, options])
    return [
        f"{page.url} at {page.viewport_size}: {violation['id']}: {node['html']}"
        for violation in found
        for node in violation["nodes"]
    ]

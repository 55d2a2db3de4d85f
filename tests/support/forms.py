"""What a browser sends when somebody opens a form, types something in it, and presses its button.

Hidden fields too, which tell what the form showed: a test that left them out would send what no
browser does.
"""

from html.parser import HTMLParser
from typing import Any


class _Forms(HTMLParser):
    """The fields of each form, by what it is sent to, with what stands in them."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, list[str]] = {}
        self._select = self._textarea = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        name, value = found.get("name", ""), found.get("value", "")
        if tag == "select":
            self._select = name
        elif tag == "textarea":
            self._textarea = name
            self.fields[name] = [""]
        elif tag == "option" and "selected" in found:
            self.fields.setdefault(self._select, []).append(value)
        elif tag == "input" and name and found.get("type") not in {"submit", "button"}:
            is_choice = found.get("type") in {"checkbox", "radio"}
            if not is_choice or "checked" in found:
                # A box that names no value is sent as on.
                sent_as = found.get("value", "on") if is_choice else value
                self.fields.setdefault(name, []).append(sent_as)

    def handle_data(self, data: str) -> None:
        if self._textarea:
            # A browser leaves out the newline that Django writes before what stands there.
            self.fields[self._textarea][0] += data.removeprefix("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._textarea = ""


def sent(page: Any, **typed: Any) -> dict[str, Any]:
    """All that stands in the forms of this answer, and what is typed in place of it."""
    forms = _Forms()
    forms.feed(page.content.decode())
    return forms.fields | typed

"""The fields that a browser sends when a user opens a form, changes some, and submits it.

Hidden fields are included, because a browser sends them too.
"""

from html.parser import HTMLParser
from typing import Any


class _Forms(HTMLParser):
    """Collects the fields of all forms of a page, with their values."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, list[str]] = {}
        self._select = self._textarea = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        name, value = attributes.get("name", ""), attributes.get("value", "")
        if tag == "select":
            self._select = name
        elif tag == "textarea":
            self._textarea = name
            self.fields[name] = [""]
        elif tag == "option" and "selected" in attributes:
            self.fields.setdefault(self._select, []).append(value)
        elif tag == "input" and name and attributes.get("type") not in {"submit", "button"}:
            is_choice = attributes.get("type") in {"checkbox", "radio"}
            if not is_choice or "checked" in attributes:
                # A checkbox without a value is sent as "on".
                sent_value = attributes.get("value", "on") if is_choice else value
                self.fields.setdefault(name, []).append(sent_value)

    def handle_data(self, data: str) -> None:
        if self._textarea:
            # Django writes a newline before the text, and a browser ignores it.
            self.fields[self._textarea][0] += data.removeprefix("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._textarea = ""


def form_data(page: Any, **changes: Any) -> dict[str, Any]:
    """All fields of the forms in this response, with these changes."""
    forms = _Forms()
    forms.feed(page.content.decode())
    return forms.fields | changes

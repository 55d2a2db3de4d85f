"""Lists of models and networks as people type them, separated by spaces, commas or lines."""

from collections.abc import Callable, Sequence
from typing import Any

from django import forms

from keyportal.keys.rules.permissions import normalize_networks, normalize_patterns
from keyportal.keys.rules.validators import split_words

Normalize = Callable[[Sequence[str]], tuple[str, ...]]


class WordsField(forms.CharField):
    """Cleans to the result of `normalize` on the words."""

    normalize: Normalize

    def __init__(self, rows: int = 2, help_text: str = "") -> None:
        attributes = {"rows": rows, "spellcheck": "false", "autocomplete": "off"}
        super().__init__(required=False, widget=forms.Textarea(attributes), help_text=help_text)

    def to_python(self, value: Any) -> Any:
        return type(self).normalize(split_words(super().to_python(value) or ""))

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list | tuple) else value


class ModelsField(WordsField):
    normalize = staticmethod(normalize_patterns)


class NetworksField(WordsField):
    normalize = staticmethod(normalize_networks)

    def __init__(self, rows: int = 2) -> None:
        super().__init__(rows, "Allowed networks such as 192.0.2.0/24. Empty: all.")

"""Lists of models as model servers return them: OpenAI's, Anthropic's in pages, and Ollama's."""

import json
from typing import Any, NamedTuple


class Page(NamedTuple):
    ids: list[str]
    next_after: str = ""
    """The last id of this page if there is another page (Anthropic's `after_id`), else empty."""
    is_bare: bool = False
    """Whether it is an array that no object contains."""


def read_page(body: bytes) -> Page:
    """The ids in an answer. Raises `ValueError` if it is not a list of models.

    llama.cpp's answer has both `models` and `data`; only `data` has the names for calls.
    """
    try:
        answer = json.loads(body)
        if isinstance(answer, list):
            return Page(_unique(map(_id, answer)), is_bare=True)
        if "data" not in answer:
            return Page(_unique(entry["name"] for entry in answer["models"]))
        ids = _unique(entry["id"] for entry in answer["data"])
        if answer.get("has_more") is not True or not ids:
            return Page(ids)
        return Page(ids, _text(answer.get("last_id") or ids[-1]))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("This is not a list of models.") from error


def _id(entry: Any) -> Any:
    return entry if isinstance(entry, str) else entry["id"]


def _unique(ids: Any) -> list[str]:
    return list(dict.fromkeys(map(_text, ids)))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value

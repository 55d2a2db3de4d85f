"""The list of models in Anthropic's form: pages, cursors, and what is refused."""

from typing import Any

import pytest

from keyportal.catalog.snapshot import CatalogEntry
from keyportal.gateway.errors import BadRequest
from keyportal.gateway.model_list import anthropic_model, anthropic_page

pytestmark = pytest.mark.any_database


def entry(name: str, created: int = 1_700_000_000) -> CatalogEntry:
    return CatalogEntry(name=name, team_id=None, owned_by="public", created=created, targets=())


MODELS = [entry("a", 1), entry("b", 3), entry("c", 2), entry("d", 3)]
NEWEST_FIRST = ["b", "d", "c", "a"]


def page(query: str, models: list[CatalogEntry] = MODELS) -> tuple[list[str], bool]:
    content: Any = anthropic_page(models, query.encode())
    names = [model["id"] for model in content["data"]]
    assert content["first_id"] == (names[0] if names else None)
    assert content["last_id"] == (names[-1] if names else None)
    return names, content["has_more"]


def test_model_has_the_fields_of_anthropics_api() -> None:
    assert anthropic_model(entry("public/small")) == {
        "type": "model",
        "id": "public/small",
        "display_name": "public/small",
        "created_at": "2023-11-14T22:13:20Z",
        "lifecycle": "active",
    }


@pytest.mark.parametrize(
    ("query", "names", "has_more"),
    [
        ("", NEWEST_FIRST, False),
        ("limit=1000", NEWEST_FIRST, False),
        ("limit=4", NEWEST_FIRST, False),
        ("limit=3", ["b", "d", "c"], True),
        ("limit=1&other=1", ["b"], True),
        ("after_id=b&limit=2", ["d", "c"], True),
        ("after_id=d&limit=2", ["c", "a"], False),
        ("after_id=a", [], False),
        ("before_id=a&limit=2", ["d", "c"], True),
        ("before_id=c&limit=2", ["b", "d"], False),
        ("before_id=b", [], False),
    ],
)
def test_page(query: str, names: list[str], has_more: bool) -> None:
    assert page(query) == (names, has_more)


def test_default_is_20_models_and_a_list_may_be_empty() -> None:
    many = [entry(f"m{number:02}") for number in range(21)]
    names, has_more = page("", many)
    assert (len(names), has_more) == (20, True)
    assert page("", []) == ([], False)


def test_cursor_may_need_escapes() -> None:
    models = [entry("public/a b"), entry("public/größe", 1)]
    assert page("after_id=public%2Fa%20b", models) == (["public/größe"], False)
    assert page("before_id=public/gr%C3%B6%C3%9Fe", models) == (["public/a b"], False)


@pytest.mark.parametrize(
    "query",
    ["limit=", "limit=0", "limit=-1", "limit=1001", "limit=99999999999", "limit=1.0", "limit=x",
     "limit=%D9%A3", "limit=1&limit=1", "after_id=", "after_id=z", "before_id=z",
     "after_id=a&after_id=a", "after_id=a&before_id=b", "&".join("x=1" for _ in range(21))],
)  # fmt: skip
def test_wrong_parameters_are_refused(query: str) -> None:
    with pytest.raises(BadRequest):
        anthropic_page(MODELS, query.encode())

"""Patterns of model names, when a team gets another slug."""

import pytest
from django.core.exceptions import ValidationError
from hypothesis import assume, given
from hypothesis import strategies as st

from keyportal.keys.rules.permissions import NamePatterns
from keyportal.keys.rules.renaming import renamed


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["acme/x"], ("nova/x",)),
        (["acme/*"], ("nova/*",)),
        (["public/*", "acme/*-small"], ("nova/*-small", "public/*")),
        (["acme-other/x", "public/acme/x"], ("acme-other/x", "public/acme/x")),
        (["ac*"], ("ac*", "nova/*")),
        (["*/x"], ("*/x",)),
        (["*me/x"], ("*me/x", "nova/x")),
        (["a*/x"], ("a*/x", "nova/*/x", "nova/x")),
        (["*gpt*"], ("*gpt*",)),
    ],
)
def test_same_models_are_matched(patterns: list[str], expected: tuple[str, ...]) -> None:
    assert renamed(patterns, "acme", "nova") == expected


@pytest.mark.parametrize("pattern", ["n*", "nova/x", "*va/x", "no*/x*"])
def test_no_pattern_matches_more_than_before(pattern: str) -> None:
    """Attack: a key waits for a slug that its pattern matches."""
    with pytest.raises(ValidationError, match="would match more"):
        renamed(["acme/small", pattern], "acme", "nova")


def test_new_pattern_that_is_too_long() -> None:
    with pytest.raises(ValidationError):
        renamed(["acme/" + "x" * 190], "acme", "nova" * 10)


TEXT = st.text("an/*", min_size=1, max_size=6)


@given(patterns=st.lists(TEXT, min_size=1, max_size=3), name=st.text("an/", min_size=1, max_size=5))
def test_any_patterns_match_the_same_names(patterns: list[str], name: str) -> None:
    assume(all(pattern.strip("*") for pattern in patterns))
    try:
        new = renamed(patterns, "an", "na")
    except ValidationError:
        return
    assert (f"na/{name}" in NamePatterns(new)) == (f"an/{name}" in NamePatterns(patterns))

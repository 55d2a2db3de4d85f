"""Patterns of model names follow their team to another slug."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet

from keyportal.keys.rules.permissions import NamePatterns, normalize_patterns


def renamed(patterns: Sequence[str], former: str, slug: str) -> tuple[str, ...]:
    """Patterns that match the models of the team with its new slug as these did with the former.

    Where a star stands for a part of the slug, a pattern for the new names is added.

    Raises `ValidationError` if a pattern would match more models of the team than before. Attack:
    the owner of a key that may call `n*` waits until the team is called `nova`.
    """
    rests = [rest for pattern in patterns for rest in _rests(pattern, f"{former}/")]
    for pattern in patterns:
        if any(rest not in NamePatterns(rests) for rest in _rests(pattern, f"{slug}/")):
            raise ValidationError(
                f"A key, template or rule has the pattern “{pattern}”, which would match more of "
                f"the team's models with this slug. Change it first."
            )
    kept = [pattern for pattern in patterns if not pattern.startswith(f"{former}/")]
    new = [f"{slug}/{rest}" for rest in rests]
    return normalize_patterns([*kept, *(name for name in new if name not in NamePatterns(kept))])


def _rests(pattern: str, text: str) -> list[str]:
    """The patterns for what may follow `text` in a name that `pattern` matches."""
    rests = {pattern}
    for character in text:
        rests = {rest for each in rests for rest in _after(each, character)}
    return sorted(rests - {""})


def _after(pattern: str, character: str) -> Iterator[str]:
    if pattern.startswith("*"):
        yield pattern
        yield from _after(pattern[1:], character)
    elif pattern[:1] == character:
        yield pattern[1:]


def rename_in_rows(rows: QuerySet[Any], former: str, slug: str) -> None:
    """Change the column `allowed_models` of these rows, with one query for each distinct list."""
    lists = rows.order_by().values_list("allowed_models", flat=True).distinct()
    for patterns in [*lists]:
        changed = [*renamed(patterns, former, slug)] if patterns else []
        if changed != patterns:
            rows.filter(allowed_models=patterns).update(allowed_models=changed)

"""Validators for names, descriptions and tags, for forms, the admin, commands and the API."""

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import BooleanField, F, Func, Value

from keyportal.keys.keystring import require_no_key


def require_printable(text: str) -> None:
    """Attack: invisible or direction-changing characters make a name look like another name."""
    if not text.isprintable():
        raise ValidationError("Use printable characters only.")


def split_words(text: str) -> list[str]:
    """Split a list that a person typed, at spaces, commas and line breaks."""
    return text.replace(",", " ").split()


def normalize_text(text: str) -> str:
    """A text of several lines, with `\\n` as the line break; browsers send `\\r\\n`.

    Raises `ValidationError` if it contains other invisible characters.
    """
    lines = [line.rstrip() for line in text.splitlines()]
    for line in lines:
        require_printable(line)
    return "\n".join(lines)


MAX_TAGS = 20
MAX_TAG_LENGTH = 32


def normalize_tags(texts: Sequence[str]) -> list[str]:
    """In the given order, without duplicates, ignoring case.

    A text can contain several tags, separated by commas or spaces. Raises `ValidationError` for an
    invalid tag.
    """
    tags: dict[str, str] = {}
    for tag in split_words(" ".join(texts)):
        tags.setdefault(tag.casefold(), tag)
    if len(tags) > MAX_TAGS:
        raise ValidationError(f"At most {MAX_TAGS} tags.")
    for tag in tags.values():
        require_printable(tag)
        require_no_key(tag)
        if len(tag) > MAX_TAG_LENGTH:
            raise ValidationError(
                f"“{tag[:MAX_TAG_LENGTH]}…” is longer than {MAX_TAG_LENGTH} characters."
            )
    return [*tags.values()]


def normalize_detail(column: str, value: Any) -> Any:
    """The value of a column of `KeyDetails` as it is stored. Raises `ValidationError`."""
    if column == "description":
        return normalize_text(value)
    return normalize_tags(value) if column == "tags" else value


def has_tag(tag: str) -> "HasTag":
    """A condition on keys: they have this tag, case-sensitive."""
    return HasTag(F("tags"), Value(tag))


class HasTag(Func):
    """Whether a JSON list contains a text. Django's lookups for that only work on PostgreSQL."""

    output_field = BooleanField()
    template = "%(expressions)s"
    arg_joiner = " ? "

    def as_sqlite(self, compiler: Any, connection: Any, **_: Any) -> Any:
        template = "EXISTS (SELECT 1 FROM json_each(%(expressions)s)"
        return self.as_sql(compiler, connection, template=template, arg_joiner=") WHERE value = ")

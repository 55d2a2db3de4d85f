"""What a key may be called, whoever names it: a form, the admin or a command."""

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import BooleanField, F, Func, Value

from keyportal.keys import keystring


def require_printable(text: str) -> None:
    """Invisible and direction-changing characters make two names look like one."""
    if not text.isprintable():
        raise ValidationError("Use printable characters only.")


def require_no_key(text: str) -> None:
    """Names are stored in clear and shown to the whole team, which a key must never be."""
    if keystring.redact(text) != text:
        raise ValidationError("This holds an API key. Never keep a key where others can read it.")


def split_words(text: str) -> list[str]:
    """As people type a list: divided by spaces, commas or lines."""
    return text.replace(",", " ").split()


def normalize_text(text: str) -> str:
    """A text of several lines, which browsers end in two characters; it is kept with one.

    Raises `ValidationError` where anything else of it is invisible.
    """
    lines = [line.rstrip() for line in text.splitlines()]
    for line in lines:
        require_printable(line)
    return "\n".join(lines)


MAX_TAGS = 20
MAX_TAG_LENGTH = 32


def normalize_tags(texts: Sequence[str]) -> list[str]:
    """As they are kept: in the order given, each once, whatever its case.

    One text may be several tags, divided by commas or spaces. Raises `ValidationError` for what is
    no tag.
    """
    tags: dict[str, str] = {}
    for tag in split_words(" ".join(texts)):
        tags.setdefault(tag.casefold(), tag)
    found = [*tags.values()]
    if len(found) > MAX_TAGS:
        raise ValidationError(f"At most {MAX_TAGS} tags.")
    for tag in found:
        require_printable(tag)
        require_no_key(tag)
        if len(tag) > MAX_TAG_LENGTH:
            raise ValidationError(
                f"“{tag[:MAX_TAG_LENGTH]}…” is longer than {MAX_TAG_LENGTH} characters."
            )
    return found


def has_tag(tag: str) -> "HasTag":
    """The condition on keys that have this tag, as it is written."""
    return HasTag(F("tags"), Value(tag))


class HasTag(Func):
    """Whether a list holds a text; Django's lookups for that know PostgreSQL only."""

    output_field = BooleanField()
    template = "%(expressions)s"
    arg_joiner = " ? "

    def as_sqlite(self, compiler: Any, connection: Any, **_: Any) -> Any:
        template = "EXISTS (SELECT 1 FROM json_each(%(expressions)s)"
        return self.as_sql(compiler, connection, template=template, arg_joiner=") WHERE value = ")

"""Words by which a team sorts its keys, such as `ci` and `batch`."""

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import BooleanField, F, Func, Value

from keyportal.keys.names import require_no_key, require_printable, split_words

MOST = 20
LONGEST = 32


def read_tags(texts: Sequence[str]) -> list[str]:
    """As they are kept: in the order given, each once, whatever its case.

    One text may be several tags, divided by commas or spaces. Raises `ValidationError` for what is
    no tag.
    """
    tags: dict[str, str] = {}
    for tag in split_words(" ".join(texts)):
        tags.setdefault(tag.casefold(), tag)
    found = [*tags.values()]
    if len(found) > MOST:
        raise ValidationError(f"At most {MOST} tags.")
    for tag in found:
        require_printable(tag)
        require_no_key(tag)
        if len(tag) > LONGEST:
            raise ValidationError(f"“{tag[:LONGEST]}…” is longer than {LONGEST} characters.")
    return found


def holding(tag: str) -> "HoldsTag":
    """The condition on keys that have this tag, as it is written."""
    return HoldsTag(F("tags"), Value(tag))


class HoldsTag(Func):
    """Whether a list holds a text; Django's lookups for that know PostgreSQL only."""

    output_field = BooleanField()
    template = "%(expressions)s"
    arg_joiner = " ? "

    def as_sqlite(self, compiler: Any, connection: Any, **_: Any) -> Any:
        template = "EXISTS (SELECT 1 FROM json_each(%(expressions)s)"
        return self.as_sql(compiler, connection, template=template, arg_joiner=") WHERE value = ")

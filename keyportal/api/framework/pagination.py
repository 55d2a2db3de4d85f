"""Lists, a page at a time, newest first.

A page begins after a row and not at a number, so what is added or deleted meanwhile moves nothing.
"""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from django.db.models import Model, Q, QuerySet
from msgspec import Meta, Struct

from keyportal.api.framework.problems import FieldError, Invalid

M = TypeVar("M", bound=Model)
T = TypeVar("T")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
_FORM = struct.Struct(">qq")


class Page(Struct, Generic[T]):
    data: list[T]
    next_cursor: Annotated[
        str | None, Meta(description="Give it as `cursor` to go on; null on the last page.")
    ]


class Paged(Struct, forbid_unknown_fields=True, kw_only=True):
    """How a list is asked for."""

    limit: Annotated[int, Meta(ge=1, le=100, description="Rows on a page.")] = 50
    cursor: Annotated[
        str, Meta(max_length=64, description="From `next_cursor` of the page before.")
    ] = ""


class Cursor(NamedTuple):
    """A row of a list that is ordered by `created_at` and id."""

    at: datetime
    pk: int

    def __str__(self) -> str:
        packed = _FORM.pack((self.at - EPOCH) // MICROSECOND, self.pk)
        return urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> "Cursor":
        try:
            at, pk = _FORM.unpack(urlsafe_b64decode(text + "=="))
            return cls(EPOCH + at * MICROSECOND, pk)
        except (Error, ValueError, OverflowError, struct.error):
            raise Invalid(errors=[FieldError("This is no cursor.", parameter="cursor")]) from None

    @property
    def beyond(self) -> Q:
        """The first condition says nothing more than the second, but an index can use it."""
        after = Q(created_at__lt=self.at) | Q(created_at=self.at, pk__lt=self.pk)
        return Q(created_at__lte=self.at) & after


def page(rows: "QuerySet[M]", asked: Paged, told: Callable[[M], T]) -> Page[T]:
    """`rows` have `created_at`; each is told by `told`."""
    rows = rows.order_by("-created_at", "-pk")
    if asked.cursor:
        rows = rows.filter(Cursor.read(asked.cursor).beyond)
    found = [*rows[: asked.limit + 1]]
    shown = found[: asked.limit]
    last: Any = shown[-1] if len(found) > asked.limit else None
    onward = str(Cursor(last.created_at, last.pk)) if last else None
    return Page([told(row) for row in shown], onward)

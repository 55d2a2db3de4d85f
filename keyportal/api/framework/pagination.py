"""Cursor pagination of lists, newest first.

A page begins after a row and not at an offset, so rows that are added or deleted between two
requests don't shift the next page.
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
_PACKED = struct.Struct(">qq")


class Page(Struct, Generic[T]):
    data: list[T]
    next_cursor: Annotated[
        str | None,
        Meta(description="Send it as `cursor` to get the next page; null on the last page."),
    ]


class PageQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """The query parameters of every list."""

    limit: Annotated[int, Meta(ge=1, le=100, description="Number of rows on a page.")] = 50
    cursor: Annotated[
        str, Meta(max_length=64, description="The `next_cursor` of the previous page.")
    ] = ""


class Cursor(NamedTuple):
    """The position of a row in a list that is ordered by `created_at` and id."""

    created_at: datetime
    pk: int

    def __str__(self) -> str:
        packed = _PACKED.pack((self.created_at - EPOCH) // MICROSECOND, self.pk)
        return urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises `Invalid`."""
        try:
            microseconds, pk = _PACKED.unpack(urlsafe_b64decode(text + "=="))
            return cls(EPOCH + microseconds * MICROSECOND, pk)
        except (Error, ValueError, OverflowError, struct.error):
            error = FieldError("This is not a valid cursor.", parameter="cursor")
            raise Invalid(errors=[error]) from None

    @property
    def after(self) -> Q:
        """The condition for rows after this one.

        The condition on `created_at` alone is redundant, but an index can use it.
        """
        same_time = Q(created_at=self.created_at, pk__lt=self.pk)
        after = Q(created_at__lt=self.created_at) | same_time
        return Q(created_at__lte=self.created_at) & after


def paginate(queryset: "QuerySet[M]", query: PageQuery, serialize: Callable[[M], T]) -> Page[T]:
    """One page of `queryset`, whose model has `created_at`. Raises `Invalid` for a bad cursor."""
    queryset = queryset.order_by("-created_at", "-pk")
    if query.cursor:
        queryset = queryset.filter(Cursor.parse(query.cursor).after)
    rows = [*queryset[: query.limit + 1]]
    page_rows = rows[: query.limit]
    last: Any = page_rows[-1] if len(rows) > query.limit else None
    next_cursor = str(Cursor(last.created_at, last.pk)) if last else None
    return Page([serialize(row) for row in page_rows], next_cursor)

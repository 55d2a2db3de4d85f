"""Lists with search and pages."""

from typing import Any, TypeVar

from django.core.paginator import Page, Paginator
from django.db.models import Count, IntegerField, Model, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest

ROWS = 50
MAX_QUERY = 100
Row = TypeVar("Row", bound=Model)


def searched(request: HttpRequest, rows: QuerySet[Row], *columns: str) -> dict[str, object]:
    """Template context: the page of the rows in which one of the columns contains `q`."""
    query = request.GET.get("q", "").strip()[:MAX_QUERY]
    matches = Q()
    for column in columns:
        matches |= Q(**{f"{column}__icontains": query})
    page: Page[Row] = Paginator(rows.filter(matches) if query else rows, ROWS).get_page(
        request.GET.get("page")
    )
    return {"page": page, "query": query}


def count_of(model: type[Model], column: str) -> Any:
    """The number of rows of `model` that refer to a row, as a subquery: the database counts only
    for the rows of one page.
    """
    rows = model._default_manager.filter(**{column: OuterRef("pk")}).order_by()
    counts = rows.values(column).annotate(number=Count("pk")).values("number")
    return Coalesce(Subquery(counts, output_field=IntegerField()), 0)
